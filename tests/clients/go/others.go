package main

import (
	"github.com/containerd/containerd"
	"github.com/containerd/containerd/cio"
	"github.com/containerd/containerd/images"
	"github.com/containerd/containerd/oci"
	"github.com/containerd/containerd/remotes/docker"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// mapped is where the ids of a user namespace begin outside of it.
const mapped = 100000

// others does what is asked more rarely: another snapshotter, mapped ids, deleting what runs, pushing.
func (f *flow) others(image containerd.Image) {
	must("unpack with native", image.Unpack(f.ctx, "native"))
	unpacked, err := image.IsUnpacked(f.ctx, "native")
	must("ask whether it is unpacked", err)
	usage, err := image.Usage(f.ctx)
	must("ask for its usage", err)
	f.say("unpacked with native: %v; usage %d", unpacked, usage)
	container, err := f.client.NewContainer(f.ctx, "native", containerd.WithImage(image), containerd.WithSnapshotter("native"),
		containerd.WithNewSnapshot("native", image), containerd.WithNewSpec(oci.WithImageConfig(image), oci.WithProcessArgs("cat", "/srv/changed")))
	must("create container native", err)
	f.whole(container, "on the native snapshotter")

	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: mapped, Size: 10000}}
	container, err = f.client.NewContainer(f.ctx, "mapped", containerd.WithImage(image),
		containerd.WithRemappedSnapshot("mapped", image, mapped, mapped),
		containerd.WithNewSpec(oci.WithImageConfig(image), oci.WithUserNamespace(ids, ids),
			oci.WithProcessArgs("sh", "-c", "id -u; stat -c %u /bin/busybox; cat /proc/self/uid_map | tr -s ' '")))
	must("create container mapped", err)
	f.whole(container, "with mapped ids")

	container = f.make(image, "killed", oci.WithProcessArgs("sleep", "1000"))
	task, err := container.NewTask(f.ctx, cio.NullIO)
	must("create task", err)
	must("start", task.Start(f.ctx))
	exit, err := task.Delete(f.ctx, containerd.WithProcessKill)
	must("delete a running task", err)
	f.say("deleted while it ran: %d", exit.ExitCode())
	must("delete container", container.Delete(f.ctx, containerd.WithSnapshotCleanup))

	resolver := docker.NewResolver(docker.ResolverOptions{
		Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchLocalhost)),
	})
	pushed := f.ref + "-pushed"
	must("push", f.client.Push(f.ctx, pushed, image.Target(), containerd.WithResolver(resolver)))
	again, err := f.client.Pull(f.ctx, pushed, containerd.WithResolver(resolver))
	must("pull what was pushed", err)
	f.say("pushed and pulled: %v", again.Target().Digest == image.Target().Digest)
	must("delete it", f.client.ImageService().Delete(f.ctx, pushed, images.SynchronousDelete()))
	f.refused("delete a namespace that is in use", f.client.NamespaceService().Delete(f.ctx, f.namespace))
}

// whole runs a container to its end and deletes it.
func (f *flow) whole(container containerd.Container, what string) {
	out := &screen{}
	task, err := container.NewTask(f.ctx, f.io(cio.WithStreams(nil, out, out)))
	must("create task", err)
	exits, err := task.Wait(f.ctx)
	must("wait", err)
	must("start", task.Start(f.ctx))
	code := f.ended(exits)
	_, err = task.Delete(f.ctx)
	must("delete task", err)
	f.say("%s it said %q and ended with %s", what, out.text(), code)
	must("delete container", container.Delete(f.ctx, containerd.WithSnapshotCleanup))
}
