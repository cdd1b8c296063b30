package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/internal/login"
	"github.com/rackfs/rackfs/vfs"
)

// shownLogin is a login for people and programs: without its token.
type shownLogin struct {
	Name    string `json:"name"`
	URL     string `json:"url"`
	CA      string `json:"ca,omitempty"`
	Current bool   `json:"current"`
}

func loginFile() (*login.File, error) {
	path, err := login.Path(os.Getenv)
	if err != nil {
		return nil, err
	}
	return login.Load(path)
}

func newLoginCommand() *cobra.Command {
	var tokenFile, ca, name, use string
	var show, raw bool
	cmd := &cobra.Command{
		Use: "login URL", Short: "Log in at a gateway's HTTP API, for `rackfs storage`",
		Long: `Log in at a gateway's HTTP API, https://HOST:7443, with a token as "rackfs token create" makes it and "rackfs dev" prints it.
The token is asked for, or read from standard input or from --token-file: command lines are seen by others. It is checked, and kept in a file
that only you can read (rackfs/login.json in your configuration directory), until "rackfs logout".

A gateway whose certificate is of the cluster's own CA is trusted by the CA's fingerprint, --ca, which "rackfs dev" prints. Several logins can be kept, each by a --name;
the one that was logged in or chosen with --use last is used where none is named.

Instead of a login, programs set RACKFS_URL, RACKFS_TOKEN or RACKFS_TOKEN_FILE, and RACKFS_CA. RACKFS_LOGIN, or --login of a command, chooses one of those that are kept.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if show || use != "" {
				return cobra.NoArgs(cmd, args)
			}
			return cobra.ExactArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := loginFile()
			if err != nil {
				return err
			}
			switch {
			case show:
				return showLogins(cmd.OutOrStdout(), f, raw)
			case use != "":
				if _, err := f.Get(use); err != nil {
					return err
				}
				f.Current = use
				return f.Save()
			}
			p := login.Profile{URL: strings.TrimSuffix(args[0], "/"), CA: ca}
			if !strings.Contains(p.URL, "://") {
				p.URL = "https://" + p.URL
			}
			if p.Token, err = readToken(cmd, tokenFile); err != nil {
				return err
			}
			c, err := api.Connect(api.Endpoint{URL: p.URL, Token: p.Token, CA: p.CA})
			if err != nil {
				return err
			}
			defer c.Close()
			who, err := c.WhoAmI(cmd.Context())
			if err != nil && ca == "" && strings.Contains(err.Error(), "x509:") {
				return vfs.Errorf(vfs.KindUnauthorized, "login", "%w: if the gateway's certificate is of the cluster's own CA, name the CA's fingerprint with --ca", err)
			}
			if err != nil {
				return err
			}
			f.Put(name, p)
			if err := f.Save(); err != nil {
				return err
			}
			return say(cmd.OutOrStdout(), "logged in at %s as %s, %s for %s", p.URL, who.Name, who.Role, scopesText(who.Scopes))
		},
	}
	f := cmd.Flags()
	f.StringVar(&tokenFile, "token-file", "", "file with the token (default: it is asked for, or read from standard input)")
	f.StringVar(&ca, "ca", "", "SHA-256 of the cluster's CA certificate, in hex (default: the certificate has to be one that this machine trusts)")
	f.StringVar(&name, "name", login.Default, "name under which it is kept")
	f.StringVar(&use, "use", "", "use the login of this name from now on")
	f.BoolVar(&show, "show", false, "show where you are logged in, without tokens")
	f.BoolVar(&raw, "json", false, "with --show: print JSON")
	cmd.MarkFlagsMutuallyExclusive("show", "use")
	return cmd
}

func showLogins(w io.Writer, f *login.File, raw bool) error {
	out := []shownLogin{}
	for _, n := range f.Names() {
		p := f.Profiles[n]
		out = append(out, shownLogin{n, p.URL, p.CA, n == f.Current})
	}
	if raw {
		return printJSON(w, out)
	}
	return listing("NAME\tURL\tCA\tUSED", func(p shownLogin) []any {
		used := ""
		if p.Current {
			used = "yes"
		}
		return []any{p.Name, p.URL, p.CA, used}
	})(w, out)
}

// readToken reads a token from a file, or from whoever runs the command, whose terminal does not show it.
func readToken(cmd *cobra.Command, file string) (string, error) {
	if file != "" && file != "-" {
		return login.ReadToken(file)
	}
	f, ok := cmd.InOrStdin().(*os.File)
	if ok = ok && isTerminal(f); ok {
		fmt.Fprint(cmd.ErrOrStderr(), "Token: ")
	}
	line, err := typed(cmd.Context(), cmd.InOrStdin(), true)
	if ok {
		fmt.Fprintln(cmd.ErrOrStderr())
	}
	if ctx := cmd.Context(); ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil && line == "" {
		return "", vfs.Errorf(vfs.KindInvalid, "login", "no token came: type it, pipe it in, or name a file with --token-file")
	}
	return login.CheckToken(line)
}

func newLogoutCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "logout", Short: "Forget a login: its token is removed from this machine", Args: cobra.NoArgs,
		Long: `Forget a login: its token is removed from this machine. The token itself stays good: "rackfs token revoke" ends it.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := loginFile()
			if err != nil {
				return err
			}
			if name == "" {
				name = f.Current
			}
			if name == "" {
				name = login.Default
			}
			if err := f.Drop(name); err != nil {
				return err
			}
			if err := f.Save(); err != nil {
				return err
			}
			return say(cmd.OutOrStdout(), "the login %s is forgotten; its token stays good until `rackfs token revoke`", name)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "which one (default: the one that is used)")
	return cmd
}
