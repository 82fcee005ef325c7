package main

import (
	"fmt"
	"sync"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/cio"
	"github.com/containerd/containerd/oci"
)

// together does at once what the other steps do one after the other.
func (f *flow) together(image containerd.Image) {
	const count = 12
	var group sync.WaitGroup
	codes := make([]uint32, count)
	for i := 0; i < count; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			_, err := f.fetch()
			must("pull at once", err)
			id := fmt.Sprintf("together-%d", i)
			container := f.make(image, id, oci.WithProcessArgs("sh", "-c", fmt.Sprintf("exit %d", i)))
			task, err := container.NewTask(f.ctx, cio.NullIO)
			must("create task "+id, err)
			exits, err := task.Wait(f.ctx)
			must("wait for "+id, err)
			must("start "+id, task.Start(f.ctx))
			<-exits
			exit, err := task.Delete(f.ctx)
			must("delete task "+id, err)
			codes[i] = exit.ExitCode()
			must("delete container "+id, container.Delete(f.ctx, containerd.WithSnapshotCleanup))
		}(i)
	}
	group.Wait()
	f.say("%d at once ended with %v", count, codes)
	left, err := f.client.Containers(f.ctx)
	must("list containers", err)
	f.say("containers left: %d", len(left))
}
