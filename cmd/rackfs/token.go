package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rackfs/rackfs/api"
	"github.com/rackfs/rackfs/vfs"
)

func newTokenCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Look after tokens of the HTTP API", Long: `A token lets its bearer use the HTTP API, the dashboard and "rackfs storage". It has a role: a viewer reads, an
editor writes files too, an admin also manages. Scopes limit it to workspaces, file systems or paths; without any it is for the whole cluster.
(Tokens with which nodes join are made by "rackfs cluster token".)`}
	cmd.AddCommand(newTokenCreateCommand(), newTokenListCommand(), newTokenRevokeCommand())
	return cmd
}

// scopesText is where a token is good.
func scopesText(scopes []string) string {
	if len(scopes) == 0 {
		return "the whole cluster"
	}
	return strings.Join(scopes, ", ")
}

func asText(uid, gid uint32) string { return fmt.Sprintf("%d:%d", uid, gid) }

func newTokenCreateCommand() *cobra.Command {
	var n api.NewAccessToken
	var expires time.Duration
	return action[api.MadeToken]{
		use: "create NAME", short: "Make a token; it is shown this once", args: cobra.ExactArgs(1),
		flags: func(f *pflag.FlagSet) {
			f.StringVar(&n.Role, "role", "viewer", "viewer, editor or admin")
			f.StringArrayVar(&n.Scopes, "scope", nil, "what it is good for: WORKSPACE, WORKSPACE/FILESYSTEM or WORKSPACE/FILESYSTEM:/PATH, may be repeated (default: the whole cluster)")
			f.DurationVar(&expires, "expires", 0, "after what time it ends, such as 720h (default: never)")
			f.Uint32Var(&n.UID, "uid", 0, "user id as which it acts in file systems")
			f.Uint32Var(&n.GID, "gid", 0, "group id as which it acts in file systems")
		},
		call: func(cmd *cobra.Command, c *api.Client, args []string) (api.MadeToken, error) {
			if cmd.Flags().Changed("expires") && expires < time.Second {
				return api.MadeToken{}, vfs.Errorf(vfs.KindInvalid, "token", "--expires %v: use 1s or more, or leave it out for a token that does not end", expires)
			}
			n.Name, n.ExpiresSeconds = args[0], uint64(expires/time.Second)
			return c.CreateAccessToken(cmd.Context(), n)
		},
		print: func(w io.Writer, t api.MadeToken) error {
			until := "until it is revoked"
			if !t.Expires.IsZero() {
				until = "until " + t.Expires.Local().Format(time.RFC3339)
			}
			return say(w, "%s\n\n%s %q for %s, %s. Keep it: it is not shown again.", t.Secret, t.Role, t.Name, scopesText(t.Scopes), until)
		},
	}.command()
}

func newTokenListCommand() *cobra.Command {
	return action[[]api.AccessToken]{
		use: "list", short: "List the tokens",
		call: func(cmd *cobra.Command, c *api.Client, _ []string) ([]api.AccessToken, error) {
			return c.AccessTokens(cmd.Context())
		},
		print: listing("NAME\tID\tROLE\tSCOPES\tAS\tCREATED\tEXPIRES", func(t api.AccessToken) []any {
			expires := "never"
			if !t.Expires.IsZero() {
				expires = t.Expires.Format(time.RFC3339)
			}
			return []any{t.Name, t.ID, t.Role, scopesText(t.Scopes), asText(t.UID, t.GID), t.Created.Format(time.DateOnly), expires}
		}),
	}.command()
}

func newTokenRevokeCommand() *cobra.Command {
	return action[api.AccessToken]{
		use: "revoke NAME|ID", short: "End a token: it is refused from now on", args: cobra.ExactArgs(1),
		sure: func(_ *cobra.Command, _ *api.Client, args []string) (string, error) {
			return "Whoever uses the token " + args[0] + " is refused from now on.", nil
		},
		call: func(cmd *cobra.Command, c *api.Client, args []string) (api.AccessToken, error) {
			return c.RevokeAccessToken(cmd.Context(), args[0])
		},
		print: func(w io.Writer, t api.AccessToken) error { return say(w, "token %s (%s) is revoked", t.Name, t.ID) },
	}.command()
}
