package rpc_test

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/rackfs/rackfs/nfsserver/rpc"
)

// echoCall is the record of an echo of n bytes.
func echoCall(xid uint32, n int) []byte {
	return record(append(words(xid, 0, 2, progTest, 3, procEcho, 0, 0, 0, 0), pattern(n)...), 1<<30)
}

// answered fails unless a call is answered.
func (f *fixture) answered(t *testing.T, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resp, err := f.dial(t).Call(ctx, &rpc.Call{Prog: progTest, Vers: 3, Proc: procEcho, Args: pattern(n), MaxReply: n + 100})
	if err != nil {
		t.Fatal(err)
	}
	resp.Release()
}

// Announcing records takes no memory from others, however many do.
func TestAnnouncedRecordsHoldNothing(t *testing.T) {
	const size = 1 << 20
	f := start(t, rpc.Config{Limits: rpc.Limits{MaxRecord: size, Memory: size, RecordTimeout: time.Hour, CrowdedTimeout: time.Hour}})
	for range 10 {
		nc := f.raw(t)
		if _, err := nc.Write(append(echoCall(9, 8), echoCall(1, size/2)[:10_000]...)); err != nil {
			t.Fatal(err)
		}
		readRecord(t, nc) // the server is at the other one
	}
	for range 3 {
		f.answered(t, size*3/4)
	}
}

// A peer that stops inside a record is dropped when others need its memory.
func TestCrowdedRecordIsDropped(t *testing.T) {
	const size = 1 << 20
	f := start(t, rpc.Config{Limits: rpc.Limits{MaxRecord: size, Memory: size, RecordTimeout: time.Hour, CrowdedTimeout: 20 * time.Millisecond}})
	for _, p := range [][]byte{
		echoCall(1, size/2)[:100_000],
		// The first of several fragments.
		append(words(40), echoCall(2, 0)[4:]...),
	} {
		nc := f.raw(t)
		if _, err := nc.Write(p); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			_, err := io.ReadAll(nc)
			ended <- err
		}()
		for open := true; open; {
			f.answered(t, size*3/4)
			select {
			case err := <-ended:
				open = false
				if errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("the connection was not ended")
				}
			default:
			}
		}
	}
}

// A slow record that is in nobody's way may take RecordTimeout.
func TestSlowRecordArrives(t *testing.T) {
	const size = 1 << 20
	f := start(t, rpc.Config{Limits: rpc.Limits{MaxRecord: size, Memory: size, CrowdedTimeout: time.Millisecond}})
	nc := f.raw(t)
	p := echoCall(1, 200_000)
	for len(p) > 0 {
		n := min(len(p), 20_000)
		if _, err := nc.Write(p[:n]); err != nil {
			t.Fatal(err)
		}
		p = p[n:]
		time.Sleep(10 * time.Millisecond)
	}
	if got := readRecord(t, nc); len(got) < 200_000 {
		t.Errorf("%d bytes of an answer", len(got))
	}
}
