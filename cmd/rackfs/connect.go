package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/node"
)

const (
	// defaultConfig is where a node's configuration is looked for.
	defaultConfig = "/etc/rackfs/node.yaml"
	// devData is where `make run` keeps a cluster.
	devData = "data"
	// socketEnv names the socket of the API if no flag does.
	socketEnv = "RACKFS_SOCKET"
)

// connection says which process of this machine a command speaks to.
type connection struct{ socket, config string }

// flags adds the flags that choose it.
func (c *connection) flags(f *pflag.FlagSet) {
	f.StringVar(&c.socket, "socket", "", "socket of the API: DIR/admin.sock of a data directory (default $"+socketEnv+", else that of --config, else data/admin.sock)")
	f.StringVar(&c.config, "config", "", "configuration file of the node that runs on this machine (default "+defaultConfig+" if there is one)")
}

func (c *connection) dial() (*api.Client, error) {
	switch {
	case c.socket != "":
		return api.Dial(c.socket), nil
	case c.config == "" && os.Getenv(socketEnv) != "":
		return api.Dial(os.Getenv(socketEnv)), nil
	case c.config == "":
		if _, err := os.Stat(defaultConfig); err != nil {
			return api.Dial(filepath.Join(devData, api.SocketName)), nil
		}
		c.config = defaultConfig
	}
	cfg, err := node.LoadConfig(c.config)
	if err != nil {
		return nil, err
	}
	return api.Dial(filepath.Join(cfg.Data, api.SocketName)), nil
}

// run calls fn with a client.
func (c *connection) run(fn func(*api.Client) error) error {
	client, err := c.dial()
	if err != nil {
		return err
	}
	defer client.Close()
	return fn(client)
}

// printJSON prints v for programs.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
