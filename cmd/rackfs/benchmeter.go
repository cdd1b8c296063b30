package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/rackfs/rackfs/bench"
)

// newBenchMeterCommand makes the CPU and memory of any processes visible to a benchmark that runs elsewhere.
func newBenchMeterCommand() *cobra.Command {
	var listen string
	var pids []int
	cmd := &cobra.Command{
		Use: "meter", Short: "Serve what processes of this machine use, for a benchmark that runs elsewhere",
		Long: "Serves CPU, memory and open files of processes of this machine, added up, at http://ADDRESS/metrics in Prometheus' text format, until it is ended.\n" +
			"A benchmark on another machine takes it with --metrics, for servers that have no such metrics themselves.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var all bench.Meters
			for _, p := range pids {
				all = append(all, bench.PID(p))
			}
			if len(all) == 0 {
				return errors.New("name processes with --pid")
			}
			ctx := cmd.Context()
			if _, err := all.Read(ctx); err != nil {
				return err
			}
			ln, err := net.Listen("tcp", listen)
			if err != nil {
				return err
			}
			if err := say(cmd.OutOrStdout(), "http://%s/metrics", ln.Addr()); err != nil {
				return err
			}
			return serveMeter(ctx, ln, all)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "address to serve at")
	cmd.Flags().IntSliceVar(&pids, "pid", nil, "processes")
	return cmd
}

// meterPatience bounds how long a client may take.
const meterPatience = 10 * time.Second

// serveMeter serves until ctx ends.
func serveMeter(ctx context.Context, ln net.Listener, of bench.Meter) error {
	s := &http.Server{
		ReadTimeout: meterPatience, WriteTimeout: meterPatience,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			u, err := of.Read(r.Context())
			if err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
			_, _ = w.Write([]byte(bench.FormatUsage(u))) // a client that went away needs none
		}),
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("meter: %w", err)
	}
	return nil
}
