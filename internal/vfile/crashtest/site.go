package crashtest

import (
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/rackfs/rackfs/internal/vfile"
)

const (
	module = "github.com/rackfs/rackfs/"
	layer  = module + "internal/vfile"
)

var (
	closure = regexp.MustCompile(`(\.func\d+|\.\d+|-fm|-range\d+|\.gowrap\d+)+$`)
	pointer = regexp.MustCompile(`\(\*?(\w+)\)`)
	number  = regexp.MustCompile(`\d+`)
)

// callSite names the call of ours that is syncing; "" if it is not one of the program.
func callSite(op vfile.Change) string {
	var pcs [64]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	helper := ""
	for {
		f, more := frames.Next()
		name := f.Function
		switch {
		case strings.HasSuffix(f.File, "_test.go"), !strings.HasPrefix(name, module):
			return ""
		case strings.HasPrefix(name, layer+"/"), strings.HasPrefix(name, layer+".(*Mem)"), strings.HasPrefix(name, layer+".(*memFile)"):
		case strings.HasPrefix(name, layer+"."):
			helper = " > " + strings.TrimPrefix(name, layer+".")
		default:
			what := ": file"
			if op.Kind == vfile.SyncNames {
				what = ": dir " + number.ReplaceAllString(path.Base(op.Path), "N")
			}
			return function(name) + helper + what
		}
		if !more {
			return ""
		}
	}
}

// function is PACKAGE.TYPE.METHOD or PACKAGE.FUNCTION of the runtime's name of a function or of a closure in it.
func function(name string) string {
	name = pointer.ReplaceAllString(closure.ReplaceAllString(path.Base(name), ""), "$1")
	parts := strings.Split(name, ".")
	// A closure of a method that was inlined has its name twice.
	if n := (len(parts) - 1) / 2; len(parts)%2 == 1 && n > 1 && slices.Equal(parts[1:1+n], parts[1+n:]) {
		parts = parts[:1+n]
	}
	return strings.Join(parts, ".")
}
