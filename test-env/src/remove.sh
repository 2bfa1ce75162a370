# Removes what a lab made: every process in the namespaces PREFIX*, the namespaces, and DIR.
# Run as: sh remove.sh PREFIX DIR [wait]
# With "wait" it first reads a word: "keep" lets everything stand; the end of input, which comes too when
# the process that holds the other end of the pipe dies in whatever way, starts the removal.
trap '' INT TERM HUP
prefix=$1
case $prefix in om?*) ;; *) exit 2 ;; esac
dir=$2
if [ "${3-}" = wait ]; then
    read -r word && [ "$word" = keep ] && exit 0
fi
for path in /run/netns/"$prefix"*; do
    [ -e "$path" ] || continue
    namespace=${path##*/}
    for pid in $(ip netns pids "$namespace" 2>/dev/null); do
        kill -9 "$pid" 2>/dev/null
    done
    ip netns del "$namespace" 2>/dev/null
done
# Where the lab was short of memory: who is left in the group would keep it.
for group in /sys/fs/cgroup/memory/"$prefix"memory /sys/fs/cgroup/"$prefix"memory; do
    [ -d "$group" ] || continue
    for pid in $(cat "$group/cgroup.procs" 2>/dev/null); do
        kill -9 "$pid" 2>/dev/null
    done
    sleep 0.2
    rmdir "$group" 2>/dev/null
done
rm -rf -- "$dir"
