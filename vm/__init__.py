"""A small Linux guest in QEMU in which every fence, buffer and tracepoint of this project is real.

``linuxsync vm`` is the front door of an installed package, ``vm/run`` that of a checkout; ``python -m linuxsync.vm`` is
what this calls once everything is set up. The modules:

- ``bootstrap``: what a fresh machine lacks, and how it gets it (standard library only, also loaded by path);
- ``kernel``: builds the guest's kernel once and finds it ever after;
- ``kvm``: whether /dev/kvm really runs a guest here;
- ``runner``: boots a guest around one command and brings back its output and exit status;
- ``console``: reads what the guest's kernel said;
- ``command``: the options and commands that both doors have;
- ``stock``: the kernels in the cache;
- ``testing``, ``programs``, ``ktap``: test programs of any language, their results as KTAP and JUnit's XML.

Nothing here imports the rest of linuxsync.
"""
