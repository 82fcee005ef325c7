#!/bin/bash
# The main job, step by step: import an image, run it, watch the events, kill the daemon, find the container again.
#
#   tests/demo.sh FOLDER     with wharfd, wharf and wharf-shim in FOLDER
set -euo pipefail

bin=$(realpath "$1")
work=$(mktemp -d /tmp/wharf-demo-XXXXXX)
daemon=
export WHARF_ADDRESS=$work/wharf.sock WHARF_NAMESPACE=demo-$$ PATH=$bin:$PATH
image=docker.io/library/busybox:demo

[ "$(id -u)" = 0 ] || { echo "demo: containers need root" >&2; exit 1; }

# Leaves nothing behind, however far it came.
clean_up() {
    code=$?
    trap - EXIT
    [ $code = 0 ] || { echo; echo "demo: failed; the last the daemon said:"; tail -20 "$work/wharfd.log" || true; } >&2
    [ -z "$daemon" ] || { kill "$daemon" && wait "$daemon"; } 2>/dev/null || true
    for procs in /sys/fs/cgroup/{,*/}"$WHARF_NAMESPACE"/*/cgroup.procs; do
        [ -e "$procs" ] && xargs -r kill -9 <"$procs" 2>/dev/null || true
    done
    # Shims work in their bundles, which are beneath the folder.
    for cwd in /proc/[0-9]*/cwd; do
        case $(readlink "$cwd" 2>/dev/null) in "$work"*) kill -9 "$(basename "$(dirname "$cwd")")" || true ;; esac
    done
    { grep -o " $work/[^ ]*" /proc/self/mountinfo || true; } | sort -r | xargs -r umount -l || true
    rmdir /sys/fs/cgroup/{,*/}"$WHARF_NAMESPACE"/* /sys/fs/cgroup/{,*/}"$WHARF_NAMESPACE" 2>/dev/null || true
    rm -rf "$work"
    exit $code
}
trap clean_up EXIT

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
# Shows a command as it would be typed, and runs it.
show() {
    printf '\033[32m$ %s\033[0m\n' "$*"
    "$@"
}

start_daemon() {
    printf '\033[32m$ wharfd --root %s --state %s --address %s &\033[0m\n' "$work/root" "$work/state" "$WHARF_ADDRESS"
    wharfd --root "$work/root" --state "$work/state" --address "$WHARF_ADDRESS" >>"$work/wharfd.log" 2>&1 &
    daemon=$!
    for _ in $(seq 200); do
        wharf version >/dev/null 2>&1 && return
        kill -0 $daemon 2>/dev/null || { echo "demo: wharfd did not start" >&2; return 1; }
        sleep 0.05
    done
    echo "demo: wharfd is not ready after 10 s" >&2
    return 1
}

say "An image, made on the spot from the busybox of this machine, as docker save writes it"
mkdir -p "$work/image/rootfs"/{bin,etc,tmp}
cp "$(command -v busybox)" "$work/image/rootfs/bin/busybox"
for applet in $(busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "$work/image/rootfs/bin/$applet"
done
echo 'root:x:0:0:root:/:/bin/sh' >"$work/image/rootfs/etc/passwd"
tar -C "$work/image/rootfs" -cf "$work/image/layer.tar" .
case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) arch=$(uname -m) ;; esac
cat >"$work/image/config.json" <<JSON
{"architecture":"$arch","os":"linux","config":{"Cmd":["sh"],"Env":["PATH=/bin"]},
 "rootfs":{"type":"layers","diff_ids":["sha256:$(sha256sum "$work/image/layer.tar" | cut -d' ' -f1)"]}}
JSON
echo "[{\"Config\":\"config.json\",\"RepoTags\":[\"busybox:demo\"],\"Layers\":[\"layer.tar\"]}]" >"$work/image/manifest.json"
tar -C "$work/image" -cf "$work/busybox.tar" manifest.json config.json layer.tar
ls -l "$work/busybox.tar"

say "A daemon on folders of its own"
start_daemon
show wharf version

say "The image goes in"
show wharf images import "$work/busybox.tar"
show wharf images ls

say "A container runs to its end, while its events are watched"
wharf events --since 0 --follow >"$work/events" &
watcher=$!
code=0
show wharf run --rm $image hello sh -c 'echo "hello from $(hostname), process $$ of its own namespace"; exit 7' || code=$?
echo "exit code: $code"
[ $code = 7 ]
for _ in $(seq 100); do grep -q /containers/delete "$work/events" && break; sleep 0.05; done
kill $watcher
wait $watcher 2>/dev/null || true
echo "its events:"
grep -E '/(containers|tasks)/' "$work/events" | cut -c 1-150
grep -q /tasks/exit "$work/events"

say "A detached one"
show wharf run -d $image keeper sh -c 'trap "exit 3" TERM; while :; do sleep 0.2; done'
show wharf tasks ls
pid=$(wharf tasks ls | awk '$1 == "keeper" { print $2 }')

say "The daemon is killed with SIGKILL; the container does not notice"
show kill -9 $daemon
wait $daemon 2>/dev/null || true
daemon=
show grep -E '^(Name|State|Pid|PPid):' "/proc/$pid/status"

say "The daemon comes back and manages it as before"
start_daemon
show wharf tasks ls
[ "$(wharf tasks ls | awk '$1 == "keeper" { print $2, $3 }')" = "$pid RUNNING" ]
show wharf tasks exec --exec-id look keeper ps
show wharf tasks kill keeper
for _ in $(seq 200); do wharf tasks ls | grep -q STOPPED && break; sleep 0.05; done
show wharf tasks ls
code=0
show wharf tasks rm keeper || code=$?
echo "exit code: $code"
show wharf containers rm keeper

say "All of it can be read again from the log"
printf '\033[32m$ wharf events --since 0\033[0m\n'
wharf events --since 0 >"$work/log"
cut -c 1-110 "$work/log" | grep -E '/(images|containers|tasks)/'

say "And nothing is left"
show wharf images rm $image
show wharf containers ls
show kill $daemon
wait $daemon
daemon=
left=$(grep -c " $work/" /proc/self/mountinfo || true)
echo "mounts left: $left"
[ "$left" = 0 ]
say "Done"
