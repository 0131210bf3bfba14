# Runs in the guest, as root, when virtme's init has finished: sh guest.sh RUNDIR [shell]
#
# RUNDIR/settings.sh says what to set up, RUNDIR/command.sh is the command. The host learns from a virtio-serial port of
# our own that the guest is up, and later how the command ended: virtme's exit status cannot tell a command that
# exits 255 from a guest that was lost.

. "$1/settings.sh"

# A user's PATH has no sbin on Debian, but the guest's user is root.
PATH=$PATH:/usr/sbin:/sbin
ulimit -Hn "$(cat /proc/sys/fs/nr_open)"

grep -q ' /sys/kernel/debug ' /proc/mounts || mount -t debugfs debugfs /sys/kernel/debug
grep -q ' /sys/kernel/tracing ' /proc/mounts || mount -t tracefs tracefs /sys/kernel/tracing
if [ -n "$linuxsync_modules" ]; then
    mount -t tmpfs modules /lib/modules && ln -s "$linuxsync_modules" "/lib/modules/$(uname -r)"
fi
# A debug kernel's DMA API tells of its first finding only, unless it is told to tell of all.
[ ! -e /sys/kernel/debug/dma-api/all_errors ] || echo 1 >/sys/kernel/debug/dma-api/all_errors
# What a foreign kernel lacks is said in its log; the command may not need it.
modprobe -a vgem vkms 2>/dev/kmsg
[ -z "$linuxsync_fencedev" ] || insmod "$linuxsync_fencedev" 2>/dev/kmsg
export LINUXSYNC_FENCEDEV="$linuxsync_fencedev" LINUXSYNC_VM=1

if [ "${2-}" = shell ]; then
    exec sh "$1/command.sh"
fi

exec 9<>/dev/virtio-ports/linuxsync.report || exit 69
before=$(cat /proc/sys/kernel/tainted)
echo up >&9
sh "$1/command.sh" 9>&-
status=$?
echo "exit $status $before $(cat /proc/sys/kernel/tainted)" >&9
# The host answers when it has the line. QEMU has passed on everything that was written before it by then.
read -r _ <&9
