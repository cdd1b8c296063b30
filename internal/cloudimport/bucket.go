package cloudimport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/rackfs/rackfs/vfs"
)

// bucket reads one.
type bucket struct {
	source  Source
	secrets Secrets
	core    *minio.Core
	tr      *transport
	settled bool // the region is the one that is used: a call succeeded, or the endpoint told it
}

// openBucket makes no call. The bucket's calls end with ctx.
func openBucket(ctx context.Context, s Source, k Secrets, r *Reach, patience time.Duration, conns int) (*bucket, error) {
	u, err := s.endpoint()
	if err != nil {
		return nil, err
	}
	secure := u.Scheme == "https"
	b := &bucket{source: s, secrets: k, tr: newTransport(ctx, r, secure, patience, conns)}
	return b, b.connect()
}

// connect makes the client, for the region of the source. It makes no call.
func (b *bucket) connect() error {
	s, k := &b.source, &b.secrets
	u, err := s.endpoint()
	if err != nil {
		return err
	}
	lookup := minio.BucketLookupPath
	if s3utils.IsAmazonEndpoint(*u) {
		lookup = minio.BucketLookupAuto
	}
	b.core, err = minio.NewCore(u.Host, &minio.Options{
		Creds: credentials.NewStaticV4(k.AccessKey, k.SecretKey, k.SessionToken), Secure: u.Scheme == "https", Transport: b.tr, Region: s.Region, BucketLookup: lookup, MaxRetries: 1,
	})
	if err != nil {
		return vfs.Errorf(vfs.KindInvalid, "import", "%s", k.redact(err.Error()))
	}
	return nil
}

func (b *bucket) close() { b.tr.close() }

// page lists up to a thousand objects: those behind the key after, or those that next of the page before leads to.
func (b *bucket) page(after, token string) (list []Object, next string, err error) {
	r, err := b.core.ListObjectsV2(b.source.Bucket, b.source.Prefix, after, token, "", pageKeys)
	if region := minio.ToErrorResponse(err).Region; err != nil && !b.settled && region != b.source.Region && goodRegion(region) {
		// The endpoint says which region it wants to be called by. It is believed once, before anything else is read.
		b.settled, b.source.Region = true, region
		if err := b.connect(); err != nil {
			return nil, "", err
		}
		return b.page(after, token)
	}
	if err != nil {
		return nil, "", b.fault("list", err)
	}
	b.settled = true
	for _, o := range r.Contents {
		if o.Size < 0 {
			return nil, "", &fault{err: vfs.Errorf(vfs.KindInvalid, "import", "the endpoint lists %s with %d bytes", Shown(o.Key), o.Size), all: true}
		}
		list = append(list, Object{Key: o.Key, Size: uint64(o.Size), ETag: strings.Trim(o.ETag, `"`), Modified: o.LastModified})
	}
	if r.IsTruncated {
		next = r.NextContinuationToken
	}
	return list, next, nil
}

// pageKeys is how many keys a page of a listing has.
const pageKeys = 1000

// content opens an object from off on, if it is still the one that was listed.
func (b *bucket) content(ctx context.Context, o *Object, off uint64) (io.ReadCloser, http.Header, error) {
	var opt minio.GetObjectOptions
	if o.ETag != "" {
		opt.Set("If-Match", `"`+o.ETag+`"`)
	}
	if off > 0 {
		opt.Set("Range", fmt.Sprintf("bytes=%d-", off))
	} else {
		opt.Set("X-Amz-Checksum-Mode", "ENABLED")
	}
	body, info, h, err := b.core.GetObject(ctx, b.source.Bucket, o.Key, opt)
	if err != nil {
		return nil, nil, b.fault("read "+Shown(o.Key), err)
	}
	if got := strings.Trim(info.ETag, `"`); got != o.ETag && o.ETag != "" {
		body.Close()
		return nil, nil, &fault{err: vfs.Errorf(vfs.KindChanged, "import", "%s is another object than was listed: its ETag is %q, listed was %q", Shown(o.Key), clip(got), clip(o.ETag))}
	}
	if off > 0 && !strings.HasPrefix(h.Get("Content-Range"), fmt.Sprintf("bytes %d-", off)) {
		body.Close()
		return nil, nil, &fault{err: vfs.Errorf(vfs.KindNotSupported, "import", "%s broke off after %d bytes, and the endpoint does not answer ranges", Shown(o.Key), off)}
	}
	if info.Size >= 0 && h.Get("Content-Length") != "" && uint64(info.Size) != o.Size-off {
		body.Close()
		return nil, nil, &fault{err: vfs.Errorf(vfs.KindChanged, "import", "%s is another object than was listed: it has %d bytes, listed were %d", Shown(o.Key), off+uint64(info.Size), o.Size)}
	}
	return body, h, nil
}

// part is the size of a part of an object that was put in parts; 0 if the endpoint does not say.
func (b *bucket) part(ctx context.Context, o *Object, n int) uint64 {
	info, err := b.core.StatObject(ctx, b.source.Bucket, o.Key, minio.StatObjectOptions{PartNumber: n})
	if err != nil || info.Size < 0 || strings.Trim(info.ETag, `"`) != o.ETag {
		return 0
	}
	return uint64(info.Size)
}

// fault is what went wrong at the source.
type fault struct {
	err     *vfs.Error
	passing bool // it may be gone when it is tried again
	all     bool // it is the same for all objects
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// fault says what an error of the client means. Texts of the endpoint are cut, and have no secrets.
func (b *bucket) fault(what string, err error) error {
	const op = "import"
	var own *vfs.Error
	if errors.As(err, &own) { // an address that may not be reached, an answer that is too large
		return &fault{err: own, all: true}
	}
	at := b.source.Shown()
	r := minio.ToErrorResponse(err)
	say := func(k vfs.Kind, passing, all bool, format string, args ...any) error {
		said := ""
		if m := strings.TrimSpace(r.Message); r.StatusCode != 0 && m != "" {
			said = fmt.Sprintf(" (it said: %s %q)", b.shown(r.Code), b.shown(m))
		}
		return &fault{err: &vfs.Error{Kind: k, Op: op, Text: what + ": " + fmt.Sprintf(format, args...) + said}, passing: passing, all: all}
	}
	switch r.Code {
	case "":
		if errors.Is(err, errSilent) || isTimeout(err) {
			return say(vfs.KindIO, true, false, "%s does not answer in time", at)
		}
		if b.tr.ctx.Err() != nil {
			return &fault{err: vfs.Errorf(vfs.KindCanceled, op, "%w", context.Cause(b.tr.ctx)), all: true}
		}
		return say(vfs.KindIO, true, false, "%s: %s", at, b.shown(err.Error()))
	case "NoSuchBucket":
		return say(vfs.KindNotFound, false, true, "there is no bucket %s at the endpoint", b.source.Bucket)
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired", "InvalidClientTokenId", "UnrecognizedClientException", "Unauthorized", "InvalidSecurity", "XAdminUserNotFound":
		return say(vfs.KindAccess, false, true, "the endpoint refuses the keys: check access key, secret key and session token")
	case "RequestTimeTooSkewed":
		return say(vfs.KindAccess, false, true, "the endpoint says that the clock of this gateway is wrong: synchronise it (NTP)")
	case "AuthorizationHeaderMalformed", "InvalidRegion", "PermanentRedirect":
		hint := "give the bucket's region"
		if r.Region != "" {
			hint = fmt.Sprintf("the bucket's region is %q", b.shown(r.Region))
		}
		return say(vfs.KindInvalid, false, true, "the endpoint is not the one of the bucket's region: %s", hint)
	case "InvalidObjectState":
		return say(vfs.KindAccess, false, false, "the object is in an archive: restore it first")
	}
	switch s := r.StatusCode; {
	case s/100 == 3:
		return say(vfs.KindInvalid, false, true, "the endpoint redirects to another one, which is not followed: give the endpoint that has the bucket")
	case s == http.StatusForbidden || s == http.StatusUnauthorized:
		return say(vfs.KindAccess, false, what == "list", "the endpoint refuses it: the keys need the rights s3:ListBucket and s3:GetObject")
	case s == http.StatusPreconditionFailed || s == http.StatusNotFound && what != "list":
		return say(vfs.KindChanged, false, false, "it was changed or deleted since it was listed: import again")
	case s == http.StatusTooManyRequests || s == http.StatusRequestTimeout || s >= 500:
		return say(vfs.KindIO, true, false, "the endpoint answers %d", s)
	case s == 0:
		return say(vfs.KindInvalid, false, what == "list", "%s", b.shown(err.Error()))
	default:
		return say(vfs.KindInvalid, false, what == "list", "the endpoint answers %d", s)
	}
}

// shown is a text of the endpoint as it may be told.
func (b *bucket) shown(s string) string {
	return clip(strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, b.secrets.redact(s)), "?"))
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
