package cloudimport

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"net/http"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rackfs/rackfs/raftmeta/metapb"
	"github.com/rackfs/rackfs/vfs"
)

func TestSource(t *testing.T) {
	const r2 = "https://0123.r2.cloudflarestorage.com"
	for _, c := range []struct {
		s    Source
		want string // endpoint and region; "!": refused with these words
	}{
		{Source{Kind: S3, Bucket: "bucket"}, "https://s3.amazonaws.com "},
		{Source{Kind: S3, Bucket: "bucket", Region: "eu-west-1"}, "https://s3.amazonaws.com eu-west-1"},
		{Source{Kind: S3, Bucket: "bucket", Endpoint: "https://minio.example.com:9000/"}, "https://minio.example.com:9000 us-east-1"},
		{Source{Kind: S3, Bucket: "bucket", Endpoint: "https://s3.eu-west-1.amazonaws.com"}, "https://s3.eu-west-1.amazonaws.com "},
		{Source{Kind: R2, Bucket: "bucket", Endpoint: r2}, r2 + " auto"},
		{Source{Kind: R2, Bucket: "bucket"}, "!without the bucket"},
		{Source{Kind: R2, Bucket: "bucket", Endpoint: r2 + "/bucket"}, "!" + r2 + " is the endpoint"},
		{Source{Kind: R2, Bucket: "bucket", Endpoint: r2 + "/bucket/dir"}, "!" + r2 + " is the endpoint"},
		{Source{Kind: R2, Bucket: "bucket", Endpoint: r2 + "/other"}, "!it has a path: the endpoint is " + r2},
		{Source{Kind: R2, Bucket: "bucket", Endpoint: "https://bucket.0123.r2.cloudflarestorage.com"}, "!" + r2 + " is the endpoint"},
		{Source{Kind: S3, Bucket: "bucket", Endpoint: "https://bucket.s3.amazonaws.com"}, "!https://s3.amazonaws.com is the endpoint"},
		{Source{Kind: S3, Bucket: "bucket", Endpoint: "https://example.com/?x=1"}, "!query"},
		{Source{Kind: S3, Bucket: "bucket", Endpoint: "https://me:pa55word@example.com"}, "!user name"},
		// Presigned URLs, of both forms, and with another bucket.
		{Source{Kind: S3, Bucket: "bucket", Endpoint: "https://example.com/bucket/key?X-Amz-Signature=pa55word"}, "!endpoint https://example.com/bucket/key: it has the bucket's name"},
		{Source{Kind: S3, Bucket: "bucket", Endpoint: "https://example.com/other/a%20key?X-Amz-Signature=pa55word#pa55word"}, "!endpoint https://example.com/other/a%20key: it has a path"},
		{Source{Kind: S3, Bucket: "bucket", Endpoint: "https://bucket.s3.amazonaws.com?X-Amz-Signature=pa55word"}, "!endpoint https://bucket.s3.amazonaws.com: it has the bucket's name"},
		{Source{Kind: S3, Bucket: "bucket", Endpoint: "example.com"}, "!no URL"},
		{Source{Kind: S3, Bucket: "bucket", Endpoint: "ftp://example.com"}, "!no URL"},
		{Source{Kind: S3, Bucket: "bucket", Endpoint: "https://"}, "!no URL"},
		{Source{Kind: S3, Bucket: "bucket", Endpoint: "https://x/" + strings.Repeat("a", 600)}, "!bytes"},
		{Source{Kind: "gcs", Bucket: "bucket"}, "!use s3 or r2"},
		{Source{Kind: S3}, "!bucket name"},
		{Source{Kind: S3, Bucket: "a/b"}, "!a/b"},
		{Source{Kind: S3, Bucket: "../x"}, "!../x"},
		{Source{Kind: S3, Bucket: "bucket", Prefix: "a\x00"}, "!prefix"},
		{Source{Kind: S3, Bucket: "bucket", Region: "eu west"}, "!region"},
	} {
		got, err := c.s.Check()
		if why, refused := strings.CutPrefix(c.want, "!"); refused {
			if vfs.KindOf(err) != vfs.KindInvalid || !strings.Contains(err.Error(), why) || strings.Contains(err.Error(), "pa55word") {
				t.Errorf("%+v: %v, want it refused with %q", c.s, err, why)
			}
		} else if err != nil || got.Endpoint+" "+got.Region != c.want {
			t.Errorf("%+v: %+v %v, want %q", c.s, got, err, c.want)
		}
	}
}

// Secrets open for the job that they are for, with the key that they were sealed with, and are not told.
func TestSecrets(t *testing.T) {
	k := Secrets{AccessKey: "AKIAEXAMPLE000000000", SecretKey: "wJalr/XUtnFEMI+K7MDENG/bPxRfiCYEXAMPLEKEY", SessionToken: strings.Repeat("token/", 40)}
	if err := k.Check(); err != nil {
		t.Fatal(err)
	}
	key := bytes.Repeat([]byte{7}, 32)
	job := &metapb.Job{Kind: "import", Fs: 1, Path: []byte("/to"), Token: "t", Spec: []byte(`{"source":{"endpoint":"https://good"}}`)}
	var err error
	if job.Sealed, err = Seal(key, job, k); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{k.AccessKey, k.SecretKey, k.SessionToken, "access_key"} {
		if bytes.Contains(job.Sealed, []byte(s)) {
			t.Errorf("%q is in what was sealed", s)
		}
	}
	if got, err := Unseal(key, job); err != nil || got != k {
		t.Errorf("%+v %v", got, err)
	}
	other := bytes.Repeat([]byte{8}, 32)
	for what, edit := range map[string]func(*metapb.Job){
		"another spec":        func(j *metapb.Job) { j.Spec = []byte(`{"source":{"endpoint":"https://evil"}}`) },
		"another path":        func(j *metapb.Job) { j.Path = []byte("/too") },
		"another file system": func(j *metapb.Job) { j.Fs = 2 },
		"another token":       func(j *metapb.Job) { j.Token = "u" },
		"damage":              func(j *metapb.Job) { j.Sealed[20] ^= 1 },
		"nothing":             func(j *metapb.Job) { j.Sealed = nil },
	} {
		j := job.CloneVT()
		edit(j)
		if _, err := Unseal(key, j); vfs.KindOf(err) != vfs.KindCorrupt {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := Unseal(other, job); vfs.KindOf(err) != vfs.KindCorrupt {
		t.Errorf("another key: %v", err)
	}
	for _, text := range []string{"no " + k.SecretKey + " here", "key " + k.AccessKey, "cut off: " + k.SessionToken[:100], "x" + k.SecretKey[:20]} {
		if got := k.redact(text); strings.Contains(got, k.SecretKey[:10]) || strings.Contains(got, k.AccessKey) || strings.Contains(got, k.SessionToken[:12]) || !strings.Contains(got, "***") {
			t.Errorf("%q became %q", text, got)
		}
	}
	for _, bad := range []Secrets{{SecretKey: "sssss"}, {AccessKey: "aaaaa"}, {AccessKey: "a b c d", SecretKey: "s"}, {AccessKey: "a", SecretKey: "sss\r\nX-Evil: 1"}, {AccessKey: "a", SecretKey: strings.Repeat("s", 600)}} {
		if err := bad.Check(); vfs.KindOf(err) != vfs.KindInvalid || strings.Contains(err.Error(), "Evil") || strings.Contains(err.Error(), "sssss") || strings.Contains(err.Error(), "aaaaa") {
			t.Errorf("%v", err)
		}
	}
}

// Content is verified whichever way it comes in, and any other content is refused.
func TestDigest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "data")
		part := uint64(rapid.IntRange(1, 100).Draw(t, "part size"))
		var sums, crcs []byte
		parts := 0
		for b := data; parts == 0 || len(b) > 0; parts++ {
			n := min(uint64(len(b)), part)
			s := md5.Sum(b[:n])
			sums = append(sums, s[:]...)
			crcs = crc32.NewIEEE().Sum(crcs)[:4*parts]
			h := crc32.NewIEEE()
			h.Write(b[:n])
			crcs = h.Sum(crcs)
			b = b[n:]
		}
		o := &Object{Key: "k", Size: uint64(len(data))}
		h := http.Header{}
		whole := md5.Sum(data)
		composite := md5.Sum(sums)
		switch rapid.SampledFrom([]string{"etag", "etag of parts", "checksum", "checksum of parts"}).Draw(t, "by") {
		case "etag":
			o.ETag = hex.EncodeToString(whole[:])
		case "etag of parts":
			o.ETag = fmt.Sprintf("%x-%d", composite, parts)
		case "checksum":
			c := crc32.NewIEEE()
			c.Write(data)
			h.Set("X-Amz-Checksum-Crc32", base64.StdEncoding.EncodeToString(c.Sum(nil)))
		case "checksum of parts":
			c := crc32.NewIEEE()
			c.Write(crcs)
			h.Set("X-Amz-Checksum-Crc32", fmt.Sprintf("%s-%d", base64.StdEncoding.EncodeToString(c.Sum(nil)), parts))
		}
		checks, err := checksOf(o, h, true)
		if err != nil || len(checks) != 1 {
			t.Fatalf("%v %v", checks, err)
		}
		if checks[0].parts > 0 {
			last := o.Size - part*uint64(parts-1)
			if parts == 1 {
				last = o.Size
			}
			if checks[0].part = partSize(o.Size, parts, part, last); checks[0].part == 0 {
				t.Fatalf("%d bytes, %d parts of %d", o.Size, parts, part)
			}
		}
		feed := func(b []byte) error {
			d := newDigest(checks)
			for len(b) > 0 {
				n := rapid.IntRange(1, len(b)).Draw(t, "read")
				d.write(b[:n])
				b = b[n:]
			}
			return d.verify(o)
		}
		if err := feed(data); err != nil {
			t.Fatal(err)
		}
		if len(data) > 0 {
			bad := bytes.Clone(data)
			bad[rapid.IntRange(0, len(bad)-1).Draw(t, "damaged")] ^= 1
			if err := feed(bad); vfs.KindOf(err) != vfs.KindCorrupt {
				t.Fatalf("damage was taken: %v", err)
			}
		}
	})
	for _, c := range []struct {
		etag    string
		headers []string
		want    int
	}{
		{"0123456789abcdef0123456789abcdef", nil, 1},
		{"0123456789abcdef0123456789abcdef", []string{"X-Amz-Server-Side-Encryption", "AES256"}, 1},
		{"0123456789abcdef0123456789abcdef", []string{"X-Amz-Server-Side-Encryption", "aws:kms"}, 0},
		{"0123456789abcdef0123456789abcdef", []string{"X-Amz-Server-Side-Encryption-Customer-Algorithm", "AES256"}, 0},
		{"0123456789abcdef0123456789abcdef-3", nil, 1},
		{"0123456789abcdef0123456789abcdef-0", nil, 0},
		{"0123456789abcdef0123456789abcdef-x", nil, 0},
		{"W/odd", nil, 0},
		{"zz23456789abcdef0123456789abcdef", nil, 0},
		{"odd", []string{"X-Amz-Checksum-Crc32", "AAAAAA==", "X-Amz-Checksum-Type", "COMPOSITE"}, 0},
		{"odd", []string{"X-Amz-Checksum-Crc32", "AAAAAA=="}, 1},
		{"odd", []string{"X-Amz-Checksum-Crc64nvme", "AAAAAAAAAAA="}, 1},
		{"odd", []string{"X-Amz-Checksum-Sha256", "!"}, -1},
		{"odd", []string{"X-Amz-Checksum-Sha256", "AAAA"}, -1},
		{"odd", []string{"X-Amz-Checksum-Crc32", "AAAAAA==-100000000"}, -1},
	} {
		h := http.Header{}
		for i := 0; i < len(c.headers); i += 2 {
			h.Set(c.headers[i], c.headers[i+1])
		}
		checks, err := checksOf(&Object{ETag: c.etag}, h, true)
		if c.want < 0 {
			if err == nil {
				t.Errorf("%+v was taken", c)
			}
		} else if err != nil || len(checks) != c.want {
			t.Errorf("%+v: %v %v", c, checks, err)
		}
	}
	for _, c := range []struct {
		size        uint64
		parts       int
		first, last uint64
		want        uint64
	}{{10, 1, 10, 10, 10}, {0, 1, 0, 0, 1}, {10, 2, 6, 4, 6}, {10, 2, 4, 6, 0}, {10, 3, 4, 2, 4}, {10, 3, 5, 1, 0}, {10, 2, 0, 4, 0}, {10, 2, 1 << 63, 1 << 63, 0}, {10, 2, 10, 0, 0}} {
		if got := partSize(c.size, c.parts, c.first, c.last); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}
