package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/cio"
	"github.com/containerd/containerd/oci"
)

// restart has the daemon taken away while tasks run, and finds them again.
func (f *flow) restart(image containerd.Image) {
	stays := f.make(image, "stays", oci.WithProcessArgs("sh", "-c", "while read word; do echo got $word; [ $word = end ] && exit 7; done"))
	ends := f.make(image, "ends", oci.WithProcessArgs("sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"))
	out, input := &screen{}, newInput()
	task, err := stays.NewTask(f.ctx, f.io(cio.WithStreams(input.reader, out, out)))
	must("create task", err)
	exits, err := task.Wait(f.ctx)
	must("wait", err)
	must("start", task.Start(f.ctx))
	ready := &screen{}
	other, err := ends.NewTask(f.ctx, f.io(cio.WithStreams(nil, ready, ready)))
	must("create task", err)
	must("start", other.Start(f.ctx))
	f.eventually("the trap", func() bool { return strings.Contains(ready.text(), "ready") })

	f.order("down")
	f.say("wait ended: %s", f.ended(exits))
	input.say("one")
	f.eventually("its answer without a daemon", func() bool { return strings.Contains(out.text(), "got one") })
	// Ended by somebody else: nobody is there to see it.
	must("end the other", syscall.Kill(int(other.Pid()), syscall.SIGTERM))
	f.eventually("the other's end", func() bool { return gone(other.Pid()) })
	f.order("up")

	f.eventually("the daemon", func() bool {
		serving, err := f.client.IsServing(f.ctx)
		return err == nil && serving
	})
	container, err := f.client.LoadContainer(f.ctx, "stays")
	must("load the container", err)
	found, err := container.Task(f.ctx, nil)
	must("find its task", err)
	f.status("after the restart", found)
	f.say("the same process: %v", found.Pid() == task.Pid())
	// Asked of the task that was made before, too: a client's objects outlive the daemon.
	exits, err = task.Wait(f.ctx)
	must("wait again", err)
	seen := f.exitOf("stays")
	input.say("end")
	f.say("ended with %s", f.ended(exits))
	f.say("told by an event: %d", <-seen)
	exit, err := task.Delete(f.ctx)
	must("delete task", err)
	f.say("deleted with %d; it said %q", exit.ExitCode(), out.text())

	container, err = f.client.LoadContainer(f.ctx, "ends")
	must("load the container", err)
	// Attached to the same FIFOs, as a client that is new would be.
	found, err = container.Task(f.ctx, cio.NewAttach(cio.WithStreams(nil, ready, ready)))
	must("find its task", err)
	f.status("ended meanwhile", found)
	exit, err = found.Delete(f.ctx)
	must("delete task", err)
	f.say("deleted with %d", exit.ExitCode())
	for _, container := range []containerd.Container{stays, ends} {
		must("delete container", container.Delete(f.ctx, containerd.WithSnapshotCleanup))
	}
}

// gone says whether a process is there no more, or only its end is kept.
func gone(pid uint32) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// input is a standard input that words are said into.
type input struct {
	reader *os.File
	writer *os.File
}

func newInput() input {
	reader, writer, err := os.Pipe()
	must("make a pipe", err)
	return input{reader, writer}
}

func (i input) say(word string) {
	_, err := i.writer.WriteString(word + "\n")
	must("say "+word, err)
}
