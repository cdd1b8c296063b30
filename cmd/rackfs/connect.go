package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/login"
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

// connection says whom a command speaks to: a process of this machine by its socket, or a gateway by the network. What flags say comes first, then RACKFS_URL, RACKFS_LOGIN and RACKFS_SOCKET. Then commands about files
// take the user's login, if there is one, and this machine else; those about the cluster the other way round, so that a login elsewhere changes nothing for who looks after this machine.
type connection struct {
	socket, config, profile string
	files                   bool // the command is about files
}

// connectionFlags are those that choose it, of which one can be given.
var connectionFlags = []string{"socket", "config", "login"}

// flags adds the flags that choose it.
func (c *connection) flags(f *pflag.FlagSet) {
	f.StringVar(&c.socket, "socket", "", "socket of the API: DIR/admin.sock of a data directory (default $"+socketEnv+", else that of --config, else data/admin.sock)")
	f.StringVar(&c.config, "config", "", "configuration file of the node that runs on this machine (default "+defaultConfig+" if there is one)")
	f.StringVar(&c.profile, "login", "", "name of the login to use, see `rackfs login` (default $"+login.EnvProfile+")")
}

func (c *connection) dial() (*api.Client, error) {
	config := c.config
	switch {
	case c.socket != "":
		return api.Dial(c.socket), nil
	case config != "":
	case c.profile != "" || os.Getenv(login.EnvURL) != "" || os.Getenv(login.EnvProfile) != "":
		return c.remote(true)
	case os.Getenv(socketEnv) != "":
		return api.Dial(os.Getenv(socketEnv)), nil
	default:
		dev := filepath.Join(devData, api.SocketName)
		_, noConfig := os.Stat(defaultConfig)
		_, noDev := os.Stat(dev)
		if c.files || noConfig != nil && noDev != nil {
			if k, err := c.remote(false); k != nil || err != nil {
				return k, err
			}
		}
		if noConfig != nil {
			return api.Dial(dev), nil
		}
		config = defaultConfig
	}
	cfg, err := node.LoadConfig(config)
	if err != nil {
		return nil, err
	}
	return api.Dial(filepath.Join(cfg.Data, api.SocketName)), nil
}

// remote is a client of the gateway that the user is logged in at; nil if he is not, unless must.
func (c *connection) remote(must bool) (*api.Client, error) {
	p, found, err := login.Find(os.Getenv, c.profile)
	if err != nil || !found && !must {
		return nil, err
	}
	return api.Connect(api.Endpoint{URL: p.URL, Token: p.Token, CA: p.CA})
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
