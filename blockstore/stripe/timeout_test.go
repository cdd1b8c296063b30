package stripe

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/blockstore"
	"github.com/rackfs/rackfs/internal/wire"
	"github.com/rackfs/rackfs/vfs"
)

// Calls that nobody answers end when their time is over, their targets are avoided, and the error says that it may be tried again. When
// the caller gives up instead, they end at once and say nothing about the targets. What was used for them serves the next ones.
func TestCallsEnd(t *testing.T) {
	const short = 20 * time.Millisecond
	patient := Options{WriteAttempts: 1, AttemptTimeout: time.Hour, FetchTimeout: time.Hour, HedgeMin: time.Hour, HedgeMax: time.Hour}
	for _, test := range []struct {
		name  string
		times Options // during the calls
		after int32   // unanswered calls, the caller gives up; 0: it does not
	}{
		{"timeout", Options{AttemptTimeout: short, FetchTimeout: short, HedgeMin: time.Hour, HedgeMax: time.Hour}, 0},
		{"timeout among hedges", Options{AttemptTimeout: short, FetchTimeout: 5 * short, HedgeMin: 1, HedgeMax: 1}, 0},
		{"given up", patient, 1},
		{"given up among hedges", Options{AttemptTimeout: time.Hour, FetchTimeout: time.Hour, HedgeMin: 1, HedgeMax: 1}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			patient.BackoffMin, patient.BackoffMax = time.Hour, time.Hour
			c := newCluster(t, 6, 4, 2, 1, patient)
			o := &c.client.o
			times := func(t Options) {
				o.AttemptTimeout, o.FetchTimeout, o.HedgeMin, o.HedgeMax = t.AttemptTimeout, t.FetchTimeout, t.HedgeMin, t.HedgeMax
			}
			data := randomBytes(1, 256<<10, 0)
			write := func(ctx context.Context, id uint64) error {
				_, err := c.client.Write(ctx, c, &Write{Pool: pool, Block: id, Data: bytes.Clone(data)})
				return err
			}
			if err := write(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			b := Block{1, 1, uint32(len(data))}
			for name, call := range map[string]func(ctx context.Context) error{
				"write": func(ctx context.Context) error { return write(ctx, 2) },
				"read":  func(ctx context.Context) error { return c.client.Read(ctx, c, b, 0, make([]byte, len(data))) },
				"rebuild": func(ctx context.Context) error {
					_, err := c.client.Rebuild(ctx, c, b, 5, make([]byte, 64<<10))
					return err
				},
			} {
				ctx, cancel := context.WithCancel(t.Context())
				var begun, ended atomic.Int32
				for i := range 3 { // one more than the code makes good
					c.slot(1, i).setFault(func(ctx context.Context, _ wire.Op, _ blockstore.Key) error {
						if begun.Add(1) == test.after {
							cancel()
						}
						<-ctx.Done()
						ended.Add(1)
						k := vfs.KindCanceled // the kinds of a wire.Client
						if errors.Is(ctx.Err(), context.DeadlineExceeded) {
							k = vfs.KindUnknown
						}
						return vfs.Errorf(k, "call", "%w", ctx.Err())
					})
				}
				times(test.times)
				err := call(ctx)
				times(patient)
				cancel()
				want := vfs.KindUnavailable
				if test.after > 0 {
					want = vfs.KindCanceled
				}
				if vfs.KindOf(err) != want || ended.Load() == 0 || ended.Load() != begun.Load() {
					t.Fatalf("%s: %v, %d of %d calls ended", name, err, ended.Load(), begun.Load())
				}
				if avoided := len(c.client.avoided) > 0; avoided != (test.after == 0) {
					t.Fatalf("%s: %v are avoided", name, c.client.avoided)
				}
				for i := range 6 {
					c.slot(1, i).setFault(nil)
					c.client.worked(c.targets[i])
				}
				for range 2 {
					got := make([]byte, len(data))
					if err := c.client.Read(t.Context(), c, b, 0, got); err != nil || !bytes.Equal(got, data) {
						t.Fatalf("read after %s: %v", name, err)
					}
				}
				if err := write(t.Context(), 3); err != nil {
					t.Fatalf("write after %s: %v", name, err)
				}
			}
		})
	}
}

// A caller whose own time is over is told so, and the targets are not to blame.
func TestCallersDeadline(t *testing.T) {
	c := newCluster(t, 6, 4, 2, 1, Options{HedgeMin: 1, HedgeMax: 1, BackoffMin: time.Hour, BackoffMax: time.Hour, AttemptTimeout: time.Hour, PatienceAlone: time.Hour})
	data := randomBytes(1, 256<<10, 0)
	write := func(ctx context.Context, id uint64) error {
		_, err := c.client.Write(ctx, c, &Write{Pool: pool, Block: id, Data: bytes.Clone(data)})
		return err
	}
	if err := write(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		c.slot(1, i).setFault(func(ctx context.Context, _ wire.Op, _ blockstore.Key) error {
			<-ctx.Done()
			return vfs.Errorf(vfs.KindUnknown, "call", "%w", ctx.Err())
		})
	}
	for name, call := range map[string]func(ctx context.Context) error{
		"write": func(ctx context.Context) error { return write(ctx, 2) },
		"read": func(ctx context.Context) error {
			return c.client.Read(ctx, c, Block{1, 1, uint32(len(data))}, 0, make([]byte, len(data)))
		},
		"rebuild": func(ctx context.Context) error {
			_, err := c.client.Rebuild(ctx, c, Block{1, 1, uint32(len(data))}, 5, make([]byte, 64<<10))
			return err
		},
	} {
		for range 20 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			err := call(ctx)
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) || vfs.KindOf(err) != vfs.KindUnavailable || len(c.client.avoided) > 0 {
				t.Fatalf("%s: %v; avoided: %v", name, err, c.client.avoided)
			}
		}
	}
}

// No call is told a later deadline than its caller has.
func TestDeadlineTravels(t *testing.T) {
	c := newCluster(t, 6, 4, 2, 1, Options{})
	latest, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	want, _ := latest.Deadline()
	var calls atomic.Int32
	see := func(ctx context.Context, _ wire.Op, _ blockstore.Key) error {
		calls.Add(1)
		if d, ok := ctx.Deadline(); !ok || d.After(want) {
			t.Errorf("a call ends at %v, %v; its caller at %v", d, ok, want)
		}
		return nil
	}
	for i := range 6 {
		c.slot(1, i).setFault(see)
	}
	c.client.o.AttemptTimeout, c.client.o.FetchTimeout = time.Hour, time.Hour
	data := randomBytes(1, 256<<10, 0)
	if _, err := c.client.Write(latest, c, &Write{Pool: pool, Block: 1, Data: data}); err != nil {
		t.Fatal(err)
	}
	if err := c.client.Read(latest, c, Block{1, 1, uint32(len(data))}, 0, make([]byte, len(data))); err != nil {
		t.Fatal(err)
	}
	if calls.Load() < 10 {
		t.Fatalf("%d calls", calls.Load())
	}
}
