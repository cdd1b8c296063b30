//go:build linux

package cluster

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// mounts is a mount namespace of a test's own. What is mounted in it is seen by nobody else, and is gone with the test and the nodes in it, however this process ends.
type mounts struct{ ns *os.File }

func newMounts(t *testing.T) *mounts {
	t.Helper()
	m := new(mounts)
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("new mount namespace: %w", err)
		}
		err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		if err == nil {
			m.ns, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/mnt", unix.Gettid()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.ns.Close() })
	return m
}

// enter has the calling thread see what is mounted here, for good: it has to be locked to its goroutine.
func (m *mounts) enter() error {
	if m == nil {
		return nil
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // threads that share a root cannot see different mounts
		return err
	}
	return unix.Setns(int(m.ns.Fd()), unix.CLONE_NEWNS)
}

// do calls f where these mounts are seen. Everything f does stays in its goroutine.
func (m *mounts) do(f func() error) error {
	return onThread(func() error {
		if err := m.enter(); err != nil {
			return err
		}
		return f()
	})
}

// onThread calls f on a thread that ends with it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- f()
	}()
	return <-done
}
