package state

import (
	"context"

	"github.com/rackfs/rackfs/vfs"
)

// ClientRecord is what must survive a restart of the server for a client to
// reclaim its state: the client as it identified itself, and the id of this
// incarnation.
type ClientRecord struct {
	Owner     []byte
	Verifier  [8]byte
	Principal Principal
	ClientID  ClientID
}

// StateStore keeps client records durably. See the package comment for what
// will be added to it. Methods return when the change is durable.
type StateStore interface {
	// PutClient stores rec in place of any record of the same Owner.
	PutClient(ctx context.Context, rec ClientRecord) error

	// RemoveClient removes the record of rec.Owner if it still has
	// rec.ClientID; a newer incarnation's record stays. Removing what is not
	// there is no error.
	RemoveClient(ctx context.Context, rec ClientRecord) error

	// Clients returns all records.
	Clients(ctx context.Context) ([]ClientRecord, error)
}

// Apply carries out e: records first, then closes. What is done is taken out
// of e; after an error the caller hands the rest to State.Retry. A failing
// close is not tried again, for the open is gone either way; closeFile reports
// it itself.
func (e *Effects) Apply(ctx context.Context, store StateStore, closeFile func(context.Context, File, vfs.OpenFlags)) error {
	for len(e.Forget) > 0 {
		if err := store.RemoveClient(ctx, e.Forget[0]); err != nil {
			return vfs.Wrap("nfs.forget client", err)
		}
		e.state.forgot(e.Forget[0])
		e.Forget = e.Forget[1:]
	}
	for len(e.Record) > 0 {
		if err := store.PutClient(ctx, e.Record[0]); err != nil {
			return vfs.Wrap("nfs.record client", err)
		}
		e.state.recorded(e.Record[0])
		e.Record = e.Record[1:]
	}
	for _, c := range e.Close {
		closeFile(ctx, c.File, c.Flags)
	}
	e.Close = nil
	return nil
}
