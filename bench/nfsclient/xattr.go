package nfsclient

import (
	"context"

	"github.com/buildbarn/go-xdr/pkg/protocols/nfsv4"
)

// Operations of RFC 8276, which the generated types predate, its errors, and its bits of ACCESS.
const (
	OpGetXattr    nfsv4.NfsOpnum4 = 72
	OpSetXattr    nfsv4.NfsOpnum4 = 73
	OpListXattrs  nfsv4.NfsOpnum4 = 74
	OpRemoveXattr nfsv4.NfsOpnum4 = 75

	ErrNoXattr   Status = 10095
	ErrXattr2Big Status = 10096

	AccessXattrRead  = 0x40
	AccessXattrWrite = 0x80
	AccessXattrList  = 0x100
)

// setxattr_option4.
const (
	XattrEither = iota
	XattrCreate
	XattrReplace
)

// GetXattr asks for an extended attribute.
func (c *Compound) GetXattr(name string) *Compound { return c.Op(OpGetXattr).str(name) }

// SetXattr sets one.
func (c *Compound) SetXattr(option uint32, name, value string) *Compound {
	return c.Op(OpSetXattr).Words(option).str(name).str(value)
}

// RemoveXattr removes one.
func (c *Compound) RemoveXattr(name string) *Compound { return c.Op(OpRemoveXattr).str(name) }

// ListXattrs lists those after cookie in a result of at most maxcount bytes.
func (c *Compound) ListXattrs(cookie uint64, maxcount uint32) *Compound {
	return c.Op(OpListXattrs).u64(cookie).Words(maxcount)
}

// GetXattr returns an extended attribute.
func (c *Client) GetXattr(ctx context.Context, fh FH, name string) (value string, err error) {
	err = c.one(ctx, NewCompound().PutFH(fh).GetXattr(name), OpGetXattr, func(r *Reply) {
		value = string(r.d.Opaque(r.d.Len()))
	})
	return value, err
}

// SetXattr sets an extended attribute.
func (c *Client) SetXattr(ctx context.Context, fh FH, option uint32, name, value string) (ChangeInfo, error) {
	return c.changeXattr(ctx, NewCompound().PutFH(fh).SetXattr(option, name, value), OpSetXattr)
}

// RemoveXattr removes an extended attribute.
func (c *Client) RemoveXattr(ctx context.Context, fh FH, name string) (ChangeInfo, error) {
	return c.changeXattr(ctx, NewCompound().PutFH(fh).RemoveXattr(name), OpRemoveXattr)
}

func (c *Client) changeXattr(ctx context.Context, cp *Compound, op nfsv4.NfsOpnum4) (ch ChangeInfo, err error) {
	cp.CacheThis = true
	err = c.one(ctx, cp, op, func(r *Reply) {
		ch = r.ChangeInfo()
	})
	return ch, err
}

// ListXattrs returns a page of names, the cookie behind them and whether there are no more.
func (c *Client) ListXattrs(ctx context.Context, fh FH, cookie uint64, maxcount uint32) (names []string, next uint64, eof bool, err error) {
	err = c.one(ctx, NewCompound().PutFH(fh).ListXattrs(cookie, maxcount), OpListXattrs, func(r *Reply) {
		next = r.d.Uint64()
		for range r.d.Count(r.d.Len()/4, 4) {
			names = append(names, string(r.d.Opaque(r.d.Len())))
		}
		eof = r.d.Bool()
	})
	return names, next, eof, err
}

// one sends a compound of PUTFH and op, whose result result reads.
func (c *Client) one(ctx context.Context, cp *Compound, op nfsv4.NfsOpnum4, result func(*Reply)) error {
	r, err := c.Do(ctx, cp)
	if err != nil {
		return err
	}
	defer r.Release()
	if err := r.Skip(nfsv4.OP_PUTFH); err != nil {
		return err
	}
	if err := r.Next(op); err != nil {
		return err
	}
	result(r)
	return r.d.Err()
}
