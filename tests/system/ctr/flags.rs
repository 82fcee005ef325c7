//! Flags of `ctr run` for which the client itself does something: both clients have to come to the same.

use super::step::{Scenario, sh};

/// Why a mapping by labels ends otherwise.
const LABELS: &str =
    "containerd's own snapshotters pass over the labels, so the namespace's root owns no file; wharf's act";

/// User namespaces.
pub const MAPS: &[Scenario] = &[
    Scenario {
        name: "run: in a user namespace",
        events: None,
        steps: &[
            sh("ctr images import $ARCHIVE"),
            // Keeps what is made for its maps: when that is collected otherwise is the daemon's to choose.
            sh("ctr run -d --uidmap 0:5000:70000 --gidmap 0:6000:70000 $IMAGE keep sleep 1000"),
            sh("ctr run --rm --uidmap 0:5000:70000 --gidmap 0:6000:70000 $IMAGE a id"),
            sh(
                "ctr run --rm --uidmap 0:5000:70000 --gidmap 0:6000:70000 $IMAGE a cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups",
            ),
            // Owners within: what the image has is root's, and so is what is made.
            sh(
                "ctr run --rm --uidmap 0:5000:70000 --gidmap 0:6000:70000 $IMAGE a sh -c 'touch /x; chown 7:8 /x; ls -lnd / /bin /etc/passwd /x /proc /dev | awk \"{print \\$1, \\$3, \\$4, \\$NF}\"'",
            ),
            // And outside.
            sh(
                "ctr run -d --uidmap 0:5000:70000 --gidmap 0:6000:70000 $IMAGE b sh -c 'touch /x; chown 7:8 /x; touch /y; sleep 100'; ctr t ls | grep ^b",
            ),
            sh(
                "pid() { ctr t ls | awk '$1 == \"b\" {print $2}'; }; for i in $(seq 600); do [ -e /proc/$(pid)/root/y ] && break; sleep 0.05; done; stat -c '%n %u %g' /proc/$(pid)/root /proc/$(pid)/root/x /proc/$(pid)/root/bin /proc/$(pid)/root/etc/passwd | sed 's,/proc/[0-9]*/,,'; grep Uid /proc/$(pid)/status",
            ),
            sh(
                "ctr t exec --exec-id x b id; ctr t exec --exec-id y --user 1:1 b sh -c 'id -u; id -g; echo >/proc/self/fd/1'",
            ),
            sh(
                "ctr c info --spec b | tr -d ' ,' >spec; grep -A 5 idMappings spec | sort; grep -A 20 .namespaces. spec | grep type",
            ),
            sh("ctr snapshots info b; ctr snapshots usage -b b | wc -l"),
            sh("ctr t rm -f b; ctr c rm b"),
            sh("ctr run --rm -t --uidmap 0:5000:70000 --gidmap 0:6000:70000 $IMAGE a sh -c 'id -u; tty; sleep 0.3'")
                .typing(&[]),
            sh(
                "echo | ctr run --rm --uidmap 0:5000:70000 --gidmap 0:6000:70000 $IMAGE a sh -c 'echo reopened >/proc/self/fd/1'",
            ),
            // Another map is another snapshot; a second container of the same stands on the same.
            sh("ctr run -d --uidmap 0:9000:70000 --gidmap 0:9000:70000 $IMAGE c sleep 100"),
            sh("ctr run -d --uidmap 0:9000:70000 --gidmap 0:9000:70000 $IMAGE d sleep 100"),
            sh("ctr snapshots ls | grep -e '^[cd] ' -e '-9000-9000 '"),
            sh("ctr t rm -f c d; ctr c rm c d"),
            sh(
                "ctr run --rm --snapshotter native --uidmap 0:5000:70000 --gidmap 0:6000:70000 $IMAGE a sh -c 'id -u; stat -c %u-%g /bin/sh /etc'",
            ),
            sh(
                "ctr run --rm --runc-binary runc --uidmap 0:5000:70000 --gidmap 0:6000:70000 $IMAGE a sh -c 'id -u; stat -c %u-%g /bin/sh /etc'",
            ),
            sh("ctr run --rm --net-host --uidmap 0:5000:70000 --gidmap 0:6000:70000 $IMAGE a id -u")
                .daemons_differ("the embedded runtime has words of its own"),
            sh("ctr run --rm --uidmap 0:5000:70000 --gidmap 0:6000:70000 $IMAGE a sh -c 'exit 9'"),
            sh("ctr snapshots ls | grep -e '-5000-6000 '"),
            sh("ctr t rm -f keep; ctr c rm keep; ctr c ls; ctr t ls"),
        ],
    },
    Scenario {
        name: "run: maps that are none",
        events: None,
        steps: &[
            sh("ctr images import $ARCHIVE"),
            sh("ctr run --rm --uidmap nonsense --gidmap 0:1:2 $IMAGE a id"),
            sh("ctr run --rm --uidmap x:1:2 --gidmap 0:1:2 $IMAGE a id"),
            sh("ctr run --rm --uidmap 0:x:2 --gidmap 0:1:2 $IMAGE a id"),
            sh("ctr run --rm --uidmap 0:1:-2 --gidmap 0:1:2 $IMAGE a id"),
            sh("ctr run --rm --uidmap 0:4294967296:2 --gidmap 0:1:2 $IMAGE a id"),
            sh("ctr run --rm --uidmap 0:0x1388:0210560 --gidmap 0:6000:70000 $IMAGE a cat /proc/self/uid_map"),
            // Half of it is nothing.
            sh("ctr run --rm --uidmap 0:1:2 $IMAGE a id"),
            sh("ctr run --rm --gidmap 0:1:2 $IMAGE a id"),
            sh("ctr run --rm --uidmap nonsense $IMAGE a id"),
            sh("ctr run --rm --remap-labels $IMAGE a id"),
            sh("ctr c ls; ctr t ls; ctr snapshots ls | grep -e '^[a-z] '"),
        ],
    },
];

/// Maps that the snapshotter acts on, if it can.
pub const LABELLED_MAPS: &[Scenario] = &[Scenario {
    name: "run: in a user namespace, by labels",
    events: Some(LABELS),
    steps: &[
        sh("ctr images import $ARCHIVE"),
        sh(
            "ctr run --rm --remap-labels --uidmap 0:5000:70000 --gidmap 0:6000:70000 $IMAGE a sh -c 'id; touch /x; stat -c %n-%u-%g / /bin /etc/passwd /x'",
        )
        .daemons_differ(LABELS),
        sh("ctr run -d --remap-labels --uidmap 0:5000:70000 --gidmap 0:6000:70000 $IMAGE b sleep 100").daemons_differ(LABELS),
        sh("ctr snapshots info b"),
        sh("ctr c info --spec b | tr -d ' ,' >spec; grep -A 5 idMappings spec | sort; grep -A 20 .namespaces. spec | grep type"),
        sh(
            "pid=$(ctr t ls | awk '$1 == \"b\" {print $2}'); stat -c '%u %g' /proc/$pid/root /proc/$pid/root/bin /proc/$pid/root/etc/passwd",
        )
        .daemons_differ(LABELS),
        sh("ctr t rm -f b").daemons_differ(LABELS),
        sh("ctr c rm b"),
        sh("ctr run --rm --snapshotter native --remap-labels --uidmap 0:5000:70000 --gidmap 0:6000:70000 $IMAGE a stat -c %u-%g /bin")
            .daemons_differ(LABELS),
        sh("ctr c ls; ctr t ls; ctr snapshots ls | grep -e '-[0-9]*-[0-9]* '"),
    ],
}];

/// What a network's scenario begins with: `./apart COMMAND` runs a client where the host's network, its configuration of
/// CNI and what plugins keep are the scenario's own. The container's network namespace is its own as ever.
const APART: &str = r#"
cat >apart <<'END'
#!/bin/sh
exec unshare --net --mount --propagation private sh -ec '
    for each in etc var/lib; do
        mkdir -p "$0/over/$each/upper" "$0/over/$each/work"
        mount -t overlay -o "lowerdir=/$each,upperdir=$0/over/$each/upper,workdir=$0/over/$each/work" overlay "/$each"
    done
    mkdir -p /etc/cni
    mount -t tmpfs tmpfs /etc/cni
    mkdir /etc/cni/net.d
    [ ! -d "$0/net.d" ] || cp "$0"/net.d/* /etc/cni/net.d/
    ip link set lo up
    exec "$@"
' "$DIR" "$@"
END
chmod +x apart
mkdir -p net.d
"#;

/// Networks by the real plugins.
pub const NETWORKS: &[Scenario] = &[
    Scenario {
        name: "run: in a network",
        events: None,
        steps: &[
            sh("ctr images import $ARCHIVE"),
            sh(APART),
            // None is configured.
            sh("./apart ctr run --rm --cni $IMAGE a true"),
            sh(r#"cat >net.d/10-bridge.conflist <<END
{"cniVersion":"1.0.0","name":"bridged","plugins":[
    {"type":"bridge","bridge":"cni0","isGateway":true,"ipam":{"type":"host-local","dataDir":"$DIR/ipam",
     "ranges":[[{"subnet":"10.88.7.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
    {"type":"tuning","mac":"02:00:00:00:00:07"}]}
END
echo nonsense >net.d/20-not-read.conf"#),
            sh(
                "./apart ctr run --rm --cni $IMAGE a sh -c 'ip -o addr show eth0 | grep -o inet.*brd; ip -o link show eth0 | grep -o link/.*; ip route; ip -o addr show lo | grep -c 127.0.0.1'",
            ),
            // Both ways, while it runs, and by TCP.
            sh(r#"./apart sh -c '
                    ctr run -d --cni $IMAGE web sh -c "echo served >/tmp/index.html; exec httpd -f -p 80 -h /tmp"
                    address=$(ctr t exec --exec-id x web ip -o -4 addr show eth0 | grep -o "10[.0-9]*/" | tr -d /)
                    echo $address; ls ipam/bridged | grep ^10; ip -o link show master cni0 | wc -l
                    busybox ping -c 1 -w 20 $address | grep -o "1 packets received"
                    for i in $(seq 100); do busybox wget -qO- http://$address/ 2>/dev/null && break; sleep 0.1; done
                    ctr t exec --exec-id y web ping -c 1 -w 20 10.88.7.1 | grep -o "1 packets received"
                    find /var/lib/cni/results -type f | sed "s,.*/,,"
                    ctr t kill -s 9 web; until ctr t ls | grep -q STOPPED; do sleep 0.05; done; ctr t rm web; ctr c rm web
                    until [ $(ip -o link show master cni0 | wc -l) = 0 ]; do sleep 0.05; done
                '"#),
            // A client that detaches leaves what the network keeps; one that stays gives it back.
            sh("ls ipam/bridged | grep ^10; rm ipam/bridged/10*"),
            sh(
                "./apart sh -c 'ctr run --rm --cni $IMAGE a sh -c \"exit 5\"; echo $?; find /var/lib/cni/results -type f'; ls ipam/bridged | grep ^10",
            ),
            // Two of them reach each other.
            sh(r#"./apart sh -c '
                    ctr run -d --cni $IMAGE one sleep 100
                    address=$(ctr t exec --exec-id x one ip -o -4 addr show eth0 | grep -o "10[.0-9]*/" | tr -d /)
                    ctr run --rm --cni $IMAGE two ping -c 1 -w 20 $address | grep -o "1 packets received"
                    ctr t rm -f one; ctr c rm one
                '"#),
            sh("ls ipam/bridged | grep -c ^10; rm ipam/bridged/10*"),
            sh(
                "./apart ctr run --rm --cni --uidmap 0:5000:70000 --gidmap 0:6000:70000 $IMAGE a sh -c 'id -u; ip -o addr show eth0 | grep -o inet.*brd'",
            ),
            sh("ctr c ls; ctr t ls"),
        ],
    },
    Scenario {
        name: "run: in other networks",
        events: None,
        steps: &[
            sh("ctr images import $ARCHIVE"),
            sh(APART),
            // One plugin in an old version, whose last answer is not given back.
            sh(
                r#"echo '{"cniVersion":"0.3.1","name":"direct","type":"ptp","ipam":{"type":"host-local","subnet":"10.88.8.0/24"}}' >net.d/net.conf"#,
            ),
            sh(
                "./apart sh -c 'ctr run --rm --cni $IMAGE a sh -c \"ip route; ping -c 1 -w 20 10.88.8.1 | grep -o received\"; ls /var/lib/cni/networks/direct; find /var/lib/cni/results -type f; until [ $(ip -o link | wc -l) = 1 ]; do sleep 0.05; done'",
            ),
            sh(r#"echo '{"cniVersion":"0.4.0","name":"looped","plugins":[{"type":"loopback"}]}' >net.d/a.conflist"#),
            sh("./apart ctr run --rm --cni $IMAGE a sh -c 'ip -o addr show lo; ip -o link | wc -l'"),
            sh(r#"echo '{"cniVersion":"0.4.0","name":"none","plugins":[]}' >net.d/a.conflist"#),
            sh("./apart ctr run --rm --cni $IMAGE a true"),
            sh("echo '{' >net.d/a.conflist"),
            sh("./apart ctr run --rm --cni $IMAGE a true"),
            sh(r#"echo '{"cniVersion":"0.4.0","name":"none"}' >net.d/a.conf; rm net.d/a.conflist"#),
            sh("./apart ctr run --rm --cni $IMAGE a true"),
            sh("ctr c ls; ctr t ls"),
        ],
    },
    // The real client leaves the container and its task when a plugin fails, and so this stands alone.
    Scenario {
        name: "run: in a network that fails",
        events: None,
        steps: &[
            sh("ctr images import $ARCHIVE"),
            sh(APART),
            sh(
                r#"echo '{"cniVersion":"1.0.0","name":"none","plugins":[{"type":"no-such-plugin"}]}' >net.d/a.conflist"#,
            ),
            sh("./apart ctr run --rm --cni $IMAGE a true"),
            sh(
                r#"echo '{"cniVersion":"1.0.0","name":"none","plugins":[{"type":"bridge","bridge":"cni0","ipam":{"type":"host-local","ranges":[]}}]}' >net.d/a.conflist"#,
            ),
            sh("./apart ctr run --rm --cni $IMAGE b true"),
        ],
    },
];

/// A placeholder for NVIDIA's program: what it is told and finds, and a way to fail. No device is here, so what is compared
/// is the specification, and how the program is called by the runtime: with which arguments, where, in which environment.
const NVIDIA: &str = r#"
mkdir -p bin
cat >bin/nvidia-container-cli <<END
#!/bin/sh
for last; do :; done
{
    echo "\$@" | sed "s, /.*/rootfs\$, ROOTFS,; s/=[0-9]* ROOTFS/=PID ROOTFS/"
    ls -d "\$last/bin/sh" | wc -l
    echo "\$TOLD"
} >$DIR/called 2>&1
[ -z "\$FAIL" ] || exit 3
END
chmod +x bin/nvidia-container-cli
"#;

/// NVIDIA's devices.
pub const GPUS: &[Scenario] = &[Scenario {
    name: "run: with NVIDIA's devices (a placeholder for NVIDIA's program)",
    events: None,
    steps: &[
        sh("ctr images import $ARCHIVE"),
        sh("ctr run --rm --gpus 0 $IMAGE x true"),
        sh("ctr c create --gpus 0 $IMAGE b true"),
        sh("ctr c ls"),
        sh(NVIDIA),
        sh("PATH=$DIR/bin:$PATH TOLD=told ctr c create --gpus 0 --gpus 3 $IMAGE c true"),
        sh(
            r#"ctr c info --spec c | tr -d ' ,' >spec; sed -n '/"prestart"/,/"env"/p' spec | sed -E 's,"[^"]*(containerd|wharfd)","HOOK",'; grep TOLD spec"#,
        ),
        sh(
            r#"PATH=$DIR/bin:$PATH TOLD='{{id}} {{status}} {{annotation "x"}}' ctr run --rm --annotation x=y --gpus 0 --gpus 3 $IMAGE a echo ran; cat called"#,
        ),
        sh(
            "rm called; PATH=$DIR/bin:$PATH ctr run --rm --runc-binary runc --gpus 1 $IMAGE a echo ran by runc; cat called",
        ),
        sh("PATH=$DIR/bin:$PATH FAIL=1 ctr run --rm --gpus 1 $IMAGE a echo did not run")
            .daemons_differ("the embedded runtime has words of its own"),
        sh("PATH=$DIR/bin:$PATH TOLD='{{nothing}}' ctr run --rm --gpus 1 $IMAGE a echo did not run")
            .daemons_differ("the embedded runtime has words of its own"),
        sh("ctr c rm c; ctr c ls; ctr t ls"),
    ],
}];

/// AppArmor, which few of the machines have on which this runs: what a kernel with it would list is a placeholder, and so
/// is the parser that would load a profile into it.
pub const PROFILES: &[Scenario] = &[Scenario {
    name: "run: under the default AppArmor profile (placeholders for kernel and parser)",
    events: None,
    steps: &[
        sh("ctr images import $ARCHIVE"),
        // Whatever this kernel has; it is the same on all sides.
        sh(
            "ctr c create --apparmor-default-profile wharf-test-default $IMAGE a true; ctr c info --spec a | grep -i apparmor",
        ),
        sh("ctr run --rm --apparmor-default-profile x --apparmor-profile y $IMAGE b true"),
        sh(r#"
mkdir bin
cat >bin/apparmor_parser <<END
#!/bin/sh
[ "\$1" != --version ] || exec echo AppArmor parser version 3.0.8
for last; do :; done
case \$last in /*) cat "\$last" ;; *) cat ;; esac >$DIR/loaded
[ -z "\$FAIL" ]
END
cat >listing <<'END'
#!/bin/sh
exec unshare --mount --propagation private sh -ec '
    mkdir -p "$0/fs"
    mount --rbind /sys/fs "$0/fs"
    mount -t tmpfs tmpfs /sys
    mkdir -p /sys/fs /sys/kernel/security/apparmor
    mount --rbind "$0/fs" /sys/fs
    echo "listed (enforce)" >/sys/kernel/security/apparmor/profiles
    PATH="$0/bin:$PATH"
    exec "$@"
' "$DIR" "$@"
END
chmod +x listing bin/apparmor_parser"#),
        sh(
            "./listing ctr c create --apparmor-default-profile listed $IMAGE c true; ctr c info --spec c | grep -i apparmor; ls loaded",
        ),
        sh(
            "./listing ctr c create --apparmor-default-profile list $IMAGE d true; ctr c info --spec d | grep -i apparmor; grep -o 'profile.*list' loaded | tr -d '\"'",
        ),
        sh(
            "FAIL=1 ./listing ctr c create --apparmor-default-profile other $IMAGE e true 2>err; echo $?; grep -o 'parser error(.*exit status' err",
        ),
        sh("ctr c rm a c d; ctr c ls"),
    ],
}];
