package api

import (
	"context"
	"time"

	"github.com/rackfs/rackfs/internal/accounts"
	"github.com/rackfs/rackfs/internal/files"
	"github.com/rackfs/rackfs/raftmeta/metapb"
)

// JobAccess refuses a job whose token may not begin it any more (jobs.Options.May): the token was revoked or has expired, its role or scopes do not do, or what the job does was
// switched off in the workspace.
func JobAccess(meta accounts.Meta, now func() time.Time) func(context.Context, *metapb.Job) error {
	return func(ctx context.Context, j *metapb.Job) error {
		if j.Token != "" { // else the operator's
			who, err := accounts.ByID(ctx, meta, j.Token, j.AskedBy, now())
			if err != nil {
				return err
			}
			at := placeOfJob(j)
			if j.Kind == JobDelete { // it changes the directory that the path is in, as the rule of delete-file says
				dir, _ := files.Path(j.Path).Split()
				at.Path = string(dir)
			}
			if err := who.May(accounts.Editor, at); err != nil {
				return err
			}
		}
		if j.Kind == JobImport {
			return accounts.Allows(ctx, meta, j.Workspace, accounts.FeatureImport)
		}
		return nil
	}
}
