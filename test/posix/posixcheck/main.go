// Command posixcheck runs the checks of package posix on a directory.
package main

import (
	"os"

	"github.com/rackfs/rackfs/test/posix"
)

func main() { os.Exit(posix.Main(os.Args[1:])) }
