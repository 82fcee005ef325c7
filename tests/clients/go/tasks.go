package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/cio"
	"github.com/containerd/containerd/containers"
	"github.com/containerd/containerd/content"
	"github.com/containerd/containerd/errdefs"
	"github.com/containerd/containerd/images"
	"github.com/containerd/containerd/oci"
	"github.com/containerd/containerd/snapshots"
	"github.com/opencontainers/image-spec/identity"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// screen is where a process's output goes.
type screen struct {
	mutex sync.Mutex
	bytes bytes.Buffer
}

func (s *screen) Write(data []byte) (int, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.bytes.Write(data)
}

func (s *screen) text() string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.bytes.String()
}

func topLayer(ctx context.Context, image containerd.Image) (string, error) {
	layers, err := image.RootFS(ctx)
	return identity.ChainID(layers).String(), err
}

// make makes a container from the image that runs these words.
func (f *flow) make(image containerd.Image, id string, options ...oci.SpecOpts) containerd.Container {
	all := append([]oci.SpecOpts{oci.WithImageConfig(image)}, options...)
	container, err := f.client.NewContainer(f.ctx, id, containerd.WithImage(image), containerd.WithNewSnapshot(id, image),
		containerd.WithNewSpec(all...))
	must("create container "+id, err)
	return container
}

// io makes FIFOs in the flow's folder.
func (f *flow) io(options ...cio.Opt) cio.Creator {
	return cio.NewCreator(append(options, cio.WithFIFODir(f.path("fifo")))...)
}

// ended waits for an end and spells it.
func (f *flow) ended(exits <-chan containerd.ExitStatus) string {
	select {
	case exit := <-exits:
		code, at, err := exit.Result()
		if err != nil {
			return "unknown: " + kind(err)
		}
		return fmt.Sprintf("%d, with its time: %v", code, time.Since(at) < time.Minute)
	case <-f.ctx.Done():
		must("wait for an end", f.ctx.Err())
		return ""
	}
}

// away is the kind of what a client sees of a daemon that is not there.
const away = "the daemon is away"

func kind(err error) string {
	text := err.Error()
	for _, word := range []string{"unavailable", "EOF", "connection", "transport", "closing"} {
		if strings.Contains(text, word) {
			return away
		}
	}
	return text
}

// containers makes, changes, lists and deletes containers that never run.
func (f *flow) containers(image containerd.Image) {
	container := f.make(image, "idle", oci.WithUser("guest"), oci.WithProcessArgs("true"), oci.WithEnv([]string{"A=b"}))
	spec, err := container.Spec(f.ctx)
	must("read its spec", err)
	f.say("user %d:%d, args %v, env %v, cgroup %s", spec.Process.User.UID, spec.Process.User.GID, spec.Process.Args, spec.Process.Env, spec.Linux.CgroupsPath)
	labels, err := container.SetLabels(f.ctx, map[string]string{"step": "containers"})
	must("label it", err)
	f.say("label %s", labels["step"])
	must("update it", container.Update(f.ctx, func(_ context.Context, _ *containerd.Client, c *containers.Container) error {
		c.Labels["more"] = "yes"
		return nil
	}))
	info, err := container.Info(f.ctx)
	must("read it", err)
	f.say("info %s %s %s %s %s", info.ID, info.Image, info.Runtime.Name, info.Snapshotter, sorted(info.Labels))
	_, err = f.client.NewContainer(f.ctx, "idle", containerd.WithImage(image), containerd.WithNewSpec())
	f.refused("create it again", err)
	_, err = f.client.NewContainer(f.ctx, "Not/Valid", containerd.WithImage(image), containerd.WithNewSpec())
	f.refused("create one with a bad name", err)
	found, err := f.client.Containers(f.ctx, "labels.step==containers")
	must("list containers", err)
	f.say("containers: %d", len(found))
	_, err = container.Task(f.ctx, nil)
	f.refused("find its task", err)
	must("delete it", container.Delete(f.ctx, containerd.WithSnapshotCleanup))
	_, err = f.client.LoadContainer(f.ctx, "idle")
	f.refused("load it", err)
}

// task takes a container through its life: the way of the getting-started guide, and what may be asked on it.
func (f *flow) task(image containerd.Image) {
	container := f.make(image, "task", oci.WithProcessArgs("sh", "-c", "trap 'exit 3' TERM; echo ready; echo oops >&2; while :; do sleep 0.05; done"))
	out, errors := &screen{}, &screen{}
	task, err := container.NewTask(f.ctx, f.io(cio.WithStreams(nil, out, errors)))
	must("create task", err)
	f.status("created", task)
	exits, err := task.Wait(f.ctx)
	must("wait", err)
	must("start", task.Start(f.ctx))
	f.eventually("its output", func() bool { return strings.Contains(out.text(), "ready") && strings.Contains(errors.text(), "oops") })
	f.status("started", task)
	// containerd's code for this is Unknown, with its runtime's words; wharf has one of its own for a wrong state. What
	// clients ask about is whether the task is there and whether to try again, and to that both say no.
	err = task.Start(f.ctx)
	asked := errdefs.IsNotFound(err) || errdefs.IsAlreadyExists(err) || errdefs.IsUnavailable(err)
	f.say("start it again: refused %v, in a way that clients ask about %v", err != nil, asked)
	f.status("started again", task)
	_, err = container.NewTask(f.ctx, cio.NullIO)
	f.refused("create a second task", err)
	_, err = task.Delete(f.ctx)
	f.refused("delete it while it runs", err)
	f.refused("delete its container", container.Delete(f.ctx))

	said, code := f.exec(task, "said", strings.NewReader(""), "sh", "-c", "echo from exec; exit 4")
	f.say("exec said %q and ended with %s", said, code)
	said, code = f.exec(task, "fed", strings.NewReader("fed through a pipe"), "sh", "-c", "cat; exit 0")
	f.say("exec said %q and ended with %s", said, code)
	_, err = task.LoadProcess(f.ctx, "none", nil)
	f.refused("load an unknown process", err)

	pids, err := task.Pids(f.ctx)
	must("list pids", err)
	first := false
	for _, pid := range pids {
		first = first || pid.Pid == task.Pid()
	}
	f.say("its own pid is listed: %v", first)
	metric, err := task.Metrics(f.ctx)
	must("read metrics", err)
	f.say("metrics of %s as %s", metric.ID, metric.Data.TypeUrl)
	limit := int64(64 << 20)
	must("update", task.Update(f.ctx, containerd.WithResources(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})))
	must("pause", task.Pause(f.ctx))
	f.status("paused", task)
	must("resume", task.Resume(f.ctx))
	f.status("resumed", task)

	must("kill", task.Kill(f.ctx, syscall.SIGTERM))
	f.say("ended with %s", f.ended(exits))
	f.status("ended", task)
	f.refused("kill it again", task.Kill(f.ctx, syscall.SIGTERM))
	again, err := task.Wait(f.ctx)
	must("wait again", err)
	f.say("and again with %s", f.ended(again))
	exit, err := task.Delete(f.ctx)
	must("delete task", err)
	f.say("deleted with %d; it said %q and %q", exit.ExitCode(), out.text(), errors.text())
	_, err = task.Status(f.ctx)
	f.refused("ask for its status", err)
	// A container is as good as new once its task is deleted.
	task, err = container.NewTask(f.ctx, cio.NullIO)
	must("create a task again", err)
	exits, err = task.Wait(f.ctx)
	must("wait", err)
	must("start", task.Start(f.ctx))
	must("kill all", task.Kill(f.ctx, syscall.SIGKILL, containerd.WithKillAll))
	f.say("killed: %s", f.ended(exits))
	_, err = task.Delete(f.ctx)
	must("delete task", err)
	must("delete container", container.Delete(f.ctx, containerd.WithSnapshotCleanup))

	container = f.make(image, "wrong", oci.WithProcessArgs("no-such-program"))
	_, err = container.NewTask(f.ctx, cio.NullIO)
	f.say("a program that is not there: %v", err != nil && strings.Contains(err.Error(), "no-such-program"))
	must("delete container", container.Delete(f.ctx, containerd.WithSnapshotCleanup))
}

func (f *flow) status(when string, process containerd.Process) {
	status, err := process.Status(f.ctx)
	must("ask for the status", err)
	f.say("%s: %s %d, pid: %v", when, status.Status, status.ExitStatus, process.Pid() > 0)
}

// exec runs another process in a task to its end.
func (f *flow) exec(task containerd.Task, id string, input io.Reader, words ...string) (said, code string) {
	spec, err := task.Spec(f.ctx)
	must("read the spec", err)
	process := *spec.Process
	process.Args = words
	out := &screen{}
	made, err := task.Exec(f.ctx, id, &process, f.io(cio.WithStreams(input, out, out)))
	must("exec", err)
	exits, err := made.Wait(f.ctx)
	must("wait for "+id, err)
	must("start "+id, made.Start(f.ctx))
	must("close the input of "+id, made.CloseIO(f.ctx, containerd.WithStdinCloser))
	code = f.ended(exits)
	made.IO().Wait()
	exit, err := made.Delete(f.ctx)
	must("delete "+id, err)
	return out.text(), fmt.Sprintf("%s (%d)", code, exit.ExitCode())
}

// streams feeds a process through its standard input, and lets another write to a file.
func (f *flow) streams(image containerd.Image) {
	container := f.make(image, "streams", oci.WithProcessArgs("sh", "-c", "cat; echo end"))
	out := &screen{}
	text := strings.Repeat("a line of sixty-four bytes, again and again, through two pipes\n", 4000)
	task, err := container.NewTask(f.ctx, f.io(cio.WithStreams(strings.NewReader(text), out, out)))
	must("create task", err)
	exits, err := task.Wait(f.ctx)
	must("wait", err)
	must("start", task.Start(f.ctx))
	f.eventually("all of it", func() bool { return len(out.text()) >= len(text) })
	must("close its input", task.CloseIO(f.ctx, containerd.WithStdinCloser))
	f.say("ended with %s", f.ended(exits))
	_, err = task.Delete(f.ctx)
	must("delete task", err)
	f.say("%d bytes came back unchanged: %v", len(text), out.text() == text+"end\n")

	task, err = container.NewTask(f.ctx, cio.LogFile(f.path("streams.log")))
	must("create task", err)
	exits, err = task.Wait(f.ctx)
	must("wait", err)
	must("start", task.Start(f.ctx))
	f.say("ended with %s", f.ended(exits))
	_, err = task.Delete(f.ctx)
	must("delete task", err)
	log, err := os.ReadFile(f.path("streams.log"))
	must("read its log", err)
	f.say("its log: %q", log)
	must("delete container", container.Delete(f.ctx, containerd.WithSnapshotCleanup))
}

// terminal runs a process on a terminal.
func (f *flow) terminal(image containerd.Image) {
	container := f.make(image, "terminal", oci.WithTTY, oci.WithProcessArgs("sh", "-c", "read word; stty size; tty; echo $word; exit 6"))
	out := &screen{}
	input, keys := io.Pipe()
	task, err := container.NewTask(f.ctx, f.io(cio.WithStreams(input, out, nil), cio.WithTerminal))
	must("create task", err)
	exits, err := task.Wait(f.ctx)
	must("wait", err)
	must("start", task.Start(f.ctx))
	must("resize", task.Resize(f.ctx, 100, 30))
	_, err = keys.Write([]byte("word\n"))
	must("type", err)
	f.say("ended with %s", f.ended(exits))
	keys.Close()
	_, err = task.Delete(f.ctx)
	must("delete task", err)
	f.say("on the terminal: %q", out.text())
	must("delete container", container.Delete(f.ctx, containerd.WithSnapshotCleanup))
}

// clear removes the image, with all that it alone kept, and the namespace.
func (f *flow) clear(image containerd.Image) {
	must("delete the image", f.client.ImageService().Delete(f.ctx, image.Name(), images.SynchronousDelete()))
	f.refused("delete it again", f.client.ImageService().Delete(f.ctx, image.Name()))
	blobs, kept := 0, 0
	must("walk the content", f.client.ContentStore().Walk(f.ctx, func(content.Info) error { blobs++; return nil }))
	for _, snapshotter := range []string{"overlayfs", "native"} {
		must("walk the snapshots", f.client.SnapshotService(snapshotter).Walk(f.ctx, func(context.Context, snapshots.Info) error {
			kept++
			return nil
		}))
	}
	f.say("left: %d blobs, %d snapshots", blobs, kept)
	must("delete the namespace", f.client.NamespaceService().Delete(f.ctx, f.namespace))
}
