package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	v1 "github.com/containerd/cgroups/stats/v1"
	v2 "github.com/containerd/cgroups/v2/stats"
	"github.com/containerd/containerd"
	"github.com/containerd/containerd/cio"
	"github.com/containerd/containerd/oci"
	"github.com/containerd/containerd/runtime/v2/runc/options"
	"github.com/containerd/typeurl"
)

// runtimes names the runtime's program and its folder by options, as other daemons on containerd do.
func (f *flow) runtimes(image containerd.Image) {
	root := f.path("runc")
	named := func(id string, given *options.Options) (containerd.Container, containerd.Task, error) {
		container, err := f.client.NewContainer(f.ctx, id, containerd.WithImage(image), containerd.WithNewSnapshot(id, image),
			containerd.WithRuntime("io.containerd.runc.v2", given),
			containerd.WithNewSpec(oci.WithImageConfig(image), oci.WithMemoryLimit(64<<20), oci.WithProcessArgs("sleep", "1000")))
		must("create container "+id, err)
		task, err := container.NewTask(f.ctx, cio.NullIO)
		return container, task, err
	}
	container, task, err := named("named", &options.Options{BinaryName: "runc", Root: root})
	must("create task", err)
	exits, err := task.Wait(f.ctx)
	must("wait", err)
	must("start", task.Start(f.ctx))
	info, err := container.Info(f.ctx)
	must("read the container", err)
	kept, err := typeurl.UnmarshalAny(info.Runtime.Options)
	must("decode its options", err)
	f.say("options: %v %s %s", info.Runtime.Options.TypeUrl, kept.(*options.Options).BinaryName, kept.(*options.Options).Root)
	// The program's own client finds the container where it was told to keep it.
	state, err := exec.Command("runc", "--root", root+"/"+f.namespace, "state", "named").Output()
	f.say("runc knows it: %v, as running: %v", err == nil, strings.Contains(string(state), `"running"`))
	metric, err := task.Metrics(f.ctx)
	must("read metrics", err)
	figures, err := typeurl.UnmarshalAny(metric.Data)
	must("decode metrics", err)
	switch figures := figures.(type) {
	case *v1.Metrics:
		f.say("memory limit %d, used: %v", figures.Memory.Usage.Limit, figures.Memory.Usage.Usage > 0)
	case *v2.Metrics:
		f.say("memory limit %d, used: %v", figures.Memory.UsageLimit, figures.Memory.Usage > 0)
	}
	must("kill", task.Kill(f.ctx, syscall.SIGKILL))
	f.say("ended with %s", f.ended(exits))
	_, err = task.Delete(f.ctx)
	must("delete task", err)
	left, err := os.ReadDir(root + "/" + f.namespace)
	f.say("left in its folder: %d %v", len(left), err)
	must("delete container", container.Delete(f.ctx, containerd.WithSnapshotCleanup))

	container, _, err = named("unknown", &options.Options{BinaryName: "no-such-runtime"})
	f.say("a runtime that is not there: %v", err != nil && strings.Contains(fmt.Sprint(err), "no-such-runtime"))
	must("delete container", container.Delete(f.ctx, containerd.WithSnapshotCleanup))
	container, err = f.client.NewContainer(f.ctx, "shimless", containerd.WithImage(image), containerd.WithNewSnapshot("shimless", image),
		containerd.WithRuntime("io.containerd.no-such.v2", nil), containerd.WithNewSpec(oci.WithImageConfig(image)))
	must("create container shimless", err)
	_, err = container.NewTask(f.ctx, cio.NullIO)
	f.say("a shim that is not there: %v", err != nil && strings.Contains(fmt.Sprint(err), "no-such"))
	must("delete container", container.Delete(f.ctx, containerd.WithSnapshotCleanup))
}
