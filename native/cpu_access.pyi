from typing import final

from typing_extensions import Buffer

@final
class Mapping(Buffer): ...

@final
class Brackets: ...
