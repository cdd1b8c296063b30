// Package parallel says how many tests of a package run beside each other.
package parallel

import (
	"flag"
	"strconv"
)

// name is that of the flag of go test for how many tests that call t.Parallel run at once.
const name = "test.parallel"

// AtOnce has so many tests that call t.Parallel run at once, unless -parallel says how many. The default are as many as there are processors: too few for tests that wait for
// elections, leases and probes most of the time. TestMain calls it before the tests.
func AtOnce(n int) error {
	if !flag.Parsed() {
		flag.Parse()
	}
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == name })
	if said {
		return nil
	}
	return flag.Set(name, strconv.Itoa(n))
}
