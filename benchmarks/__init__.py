"""The same work as linuxsync, as a C program and as plain Python, side by side in one run."""
