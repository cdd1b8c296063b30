//go:build linux

package cluster

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"

	"github.com/rackfs/rackfs/blockstore/budget"
)

// fill writes so many MiB in files of 4 MiB to a directory, by a few clients.
func (c *cluster) fill(mib int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*patience)
	defer cancel()
	const writers, each = 4, 4
	var done sync.WaitGroup
	for w := range writers {
		done.Go(func() {
			x, root, err := c.client(ctx)
			if err != nil {
				c.t.Error(err)
				return
			}
			defer x.Disconnect()
			data := piece{n: writeMax, seed: rand.Uint64()}.bytes()
			for i := w * each; i < mib; i += writers * each {
				f, err := x.Create(ctx, root, fmt.Sprintf("fill%d", i), 0o644)
				for off := 0; err == nil && off < each; off++ {
					_, err = x.Write(ctx, f, uint64(off)<<20, nfsv4.UNSTABLE4, data)
				}
				if err == nil {
					_, err = x.Commit(ctx, f.FH, 0, 0)
				}
				if err == nil {
					err = x.CloseFile(ctx, f)
				}
				if err != nil {
					c.t.Error(err)
					return
				}
			}
		})
	}
	done.Wait()
	if c.t.Failed() {
		c.t.FailNow()
	}
}

// metrics are those of a node, summed up over their labels.
func (m *machine) metrics() map[string]float64 {
	m.t.Helper()
	var all map[string]float64
	m.await("it tells its metrics", func() (bool, string) {
		var err error
		all, err = m.scrape()
		return err == nil, fmt.Sprint(err)
	})
	return all
}

func (m *machine) scrape() (map[string]float64, error) {
	transport := &http.Transport{DisableKeepAlives: true}
	if m.at != nil {
		transport.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) { return m.at.Dial(ctx, addr) }
	}
	client := http.Client{Transport: transport, Timeout: patience}
	r, err := client.Get("http://" + m.conf.http + "/metrics")
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	all := map[string]float64{}
	lines := bufio.NewScanner(io.LimitReader(r.Body, 16<<20))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if i := strings.LastIndexByte(value, ' '); i >= 0 {
			value = value[i+1:] // labels may have spaces
		}
		name, _, _ = strings.Cut(name, "{")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			all[name] += v
		}
	}
	return all, lines.Err()
}

// repairs measures what disks move in the background, and clients, from its making on.
type repairs struct {
	c     *cluster
	of    []*machine
	began time.Time
	first moved
}

// moved are totals of some disks, in bytes, and their budgets in bytes per second.
type moved struct{ rebuilt, background, clients, budgets float64 }

// measureRepairs begins at the disks of these nodes.
func (c *cluster) measureRepairs(of ...*machine) *repairs {
	r := &repairs{c: c, of: of, began: time.Now()}
	r.first = r.now()
	return r
}

func (r *repairs) now() (x moved) {
	r.c.t.Helper()
	for _, m := range r.of {
		all := m.metrics()
		x.rebuilt += all["rackfs_upkeep_rebuilt_bytes_total"]
		x.background += all["rackfs_store_background_bytes_total"]
		x.clients += all["rackfs_store_client_bytes_total"]
		x.budgets += all["rackfs_store_budget_bytes_per_second"]
	}
	return x
}

// report says how much was rebuilt, and which part that is of what the disks' budgets leave beside clients. More than the budgets is an error.
func (r *repairs) report(what string) {
	r.c.t.Helper()
	x := r.now()
	took := time.Since(r.began).Seconds()
	rebuilt, background, clients := x.rebuilt-r.first.rebuilt, x.background-r.first.background, x.clients-r.first.clients
	spare := x.budgets*took - clients
	r.c.t.Logf("%s: %.1f MB rebuilt in %.1f s, %.1f MB/s; %d disks with budgets of %.1f MB/s together moved %.1f MB/s for that, %.0f%% of what clients (%.1f MB/s) left",
		what, rebuilt/1e6, took, rebuilt/1e6/took, len(r.of), x.budgets/1e6, background/1e6/took, 100*background/spare, clients/1e6/took)
	// A budget saves up a moment's, and what is begun in the last moment counts whole.
	const each = 4 << 20
	if most := x.budgets*(took+budget.Burst.Seconds()) + float64(len(r.of)*each); x.budgets == 0 || background > most {
		r.c.t.Errorf("%.0f bytes were moved in the background, at most %.0f may be", background, most)
	}
}

// without are the nodes that are none of these.
func (c *cluster) without(away ...*machine) []*machine {
	return slices.DeleteFunc(slices.Clone(c.all), func(m *machine) bool { return slices.Contains(away, m) })
}
