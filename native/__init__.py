"""The extension modules: ioctl(2), poll(2) and close(2), one module per kernel object. Import `linuxsync` instead."""
