package devcluster_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rackfs/rackfs/bench/nfsclient"
	"github.com/rackfs/rackfs/internal/devcluster"
)

// A client with sessions by connections to both gateways at once stays where it is: the other gateway carries its requests there.
func TestTrunking(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c, err := devcluster.Start(ctx, devcluster.Config{DataDir: filepath.Join(t.TempDir(), "data"), NFSAddr: "127.0.0.1:0", Gateways: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer stopCluster(t, c)
	var dials atomic.Int32
	cl, err := nfsclient.Dial(ctx, nfsclient.Config{Owner: "a", Sessions: 2, Slots: 8, Patient: true, DialFunc: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", c.NFSAddrs()[dials.Add(1)%2])
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Disconnect()
	root, _, err := cl.Walk(ctx, "/default")
	if err != nil {
		t.Fatal(err)
	}
	const callers, each = 8, 1000
	began := time.Now()
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				if _, err := cl.Getattr(ctx, root); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d calls by %d connections to two gateways in %v", callers*each, dials.Load(), time.Since(began))
	began = time.Now()
	for i := range callers {
		wg.Go(func() {
			for n := range 30 {
				name := fmt.Sprintf("%d-%d", i, n)
				if _, _, err := cl.Mkdir(ctx, root, name, 0o755); err != nil {
					t.Errorf("mkdir %s: %v", name, err)
					return
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d mkdirs in %v", callers*30, time.Since(began))
}
