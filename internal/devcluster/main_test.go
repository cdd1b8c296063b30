package devcluster_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/rackfs/rackfs/test/parallel"
)

// atOnce is how many clusters of these tests run at once: each waits for elections, disks and background work for most of its time, and a test waits for what must happen,
// however long it takes. The tests that measure a time are not parallel: they run before all others, alone.
const atOnce = 4

func TestMain(m *testing.M) {
	if err := parallel.AtOnce(atOnce); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
