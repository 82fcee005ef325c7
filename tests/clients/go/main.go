// Command flow does with containerd's client library what its users do, step by step, and prints what came of each.
//
// What differs from run to run (times, process ids, the registry's port) is left out or named, so the transcript of one
// daemon can be compared with another's. The daemon is taken away by whoever runs this: at "!down" and "!up" the flow
// waits for a line on its standard input.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/namespaces"
)

// limit is how long the whole may take: a call that is never answered is a failure, not a wait.
const limit = 2 * time.Minute

// flow is what every step works with.
type flow struct {
	ctx       context.Context
	client    *containerd.Client
	namespace string
	ref       string
	dir       string
	orders    *bufio.Scanner
}

func main() {
	address := flag.String("address", "", "the daemon's socket")
	namespace := flag.String("namespace", "", "the namespace to work in")
	ref := flag.String("image", "", "the image to pull, over plain HTTP")
	dir := flag.String("dir", "", "a folder for FIFOs and logs")
	flag.Parse()

	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), *namespace), limit)
	defer cancel()
	client, err := containerd.New(*address, containerd.WithDefaultNamespace(*namespace), containerd.WithTimeout(10*time.Second))
	must("connect", err)
	defer client.Close()
	f := &flow{ctx: ctx, client: client, namespace: *namespace, ref: *ref, dir: *dir, orders: bufio.NewScanner(os.Stdin)}

	seen := f.subscribe()
	f.daemon()
	f.leases()
	image := f.pull()
	f.content(image)
	f.snapshots(image)
	f.containers(image)
	f.task(image)
	f.streams(image)
	f.terminal(image)
	seen.print()
	f.runtimes(image)
	f.others(image)
	f.together(image)
	f.restart(image)
	f.clear(image)
}

// say prints a line of the transcript.
func (f *flow) say(format string, args ...interface{}) {
	line := fmt.Sprintf(format, args...)
	host := strings.SplitN(f.ref, "/", 2)[0]
	for _, change := range [][2]string{{host, "REGISTRY"}, {f.namespace, "NAMESPACE"}, {f.dir, "DIR"}} {
		line = strings.ReplaceAll(line, change[0], change[1])
	}
	fmt.Println(line)
}

// order prints what the runner has to do, and waits until it is done.
func (f *flow) order(what string) {
	fmt.Println("!" + what)
	if !f.orders.Scan() {
		must("wait for the runner", fmt.Errorf("end of input"))
	}
}

// path is a path in the flow's folder.
func (f *flow) path(name string) string {
	return filepath.Join(f.dir, name)
}

func must(doing string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", doing, err)
		os.Exit(1)
	}
}

// eventually asks again until the answer is yes.
func (f *flow) eventually(what string, check func() bool) {
	for !check() {
		if f.ctx.Err() != nil {
			must("wait for "+what, f.ctx.Err())
		}
		time.Sleep(10 * time.Millisecond)
	}
}
