package volume_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/rackfs/rackfs/vfs"
	"github.com/rackfs/rackfs/vfs/vfstest"
	"github.com/rackfs/rackfs/volume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	c := newCrashing(t, volume.Config{})
	vfstest.Run(t, func(*testing.T) vfs.FS { return c })
}

// TestConformanceInLittleMemory has flushes, evictions and waiting writers all
// the time.
func TestConformanceInLittleMemory(t *testing.T) {
	c := newCrashing(t, volume.Config{DirtyLimitBytes: 1 << 20, CacheLimitBytes: 1 << 20, InodeLimit: 2, FlushAge: 1e6})
	vfstest.Run(t, func(*testing.T) vfs.FS { return c })
}

func TestModel(t *testing.T) { vfstest.Model(t, newCrashing(t, volume.Config{})) }

func TestModelInLittleMemory(t *testing.T) {
	vfstest.Model(t, newCrashing(t, volume.Config{DirtyLimitBytes: 1 << 20, CacheLimitBytes: 1 << 20, InodeLimit: 2, FlushAge: 1e6}))
}
