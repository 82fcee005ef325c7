// Command plugin is a plugin of dockerd that does nothing but be there: it listens where it is told to.
package main

import (
	"net"
	"os"
	"time"
)

// lifetime is how long it stays at most, so that a test that failed does not leave it behind.
const lifetime = 3 * time.Minute

func main() {
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	time.AfterFunc(lifetime, func() { os.Exit(0) })
	for {
		connection, err := listener.Accept()
		if err != nil {
			os.Exit(1)
		}
		connection.Close()
	}
}
