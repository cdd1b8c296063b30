package files

import (
	"encoding/base64"
	"strings"
	"time"

	"github.com/rackfs/rackfs/vfs"
)

const (
	// maxMetadata bounds the metadata of an upload.
	maxMetadata = 4096
	// MetaMtime is the key of the time that the file is to have, RFC 3339.
	MetaMtime = "mtime"
)

// ParseMetadata reads the metadata of an upload, as tus has it: "key BASE64,key BASE64".
func ParseMetadata(s string) (map[string]string, error) {
	if len(s) > maxMetadata {
		return nil, vfs.Errorf(vfs.KindTooMany, "upload", "Upload-Metadata of %d bytes, at most %d", len(s), maxMetadata)
	}
	out := map[string]string{}
	for pair := range strings.SplitSeq(s, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(pair), " ")
		if k == "" {
			continue
		}
		b, err := base64.StdEncoding.DecodeString(v)
		if err != nil {
			return nil, vfs.Errorf(vfs.KindInvalid, "upload", "Upload-Metadata: the value of %.40q is no base64", k)
		}
		out[k] = string(b)
	}
	return out, nil
}

// metaTime is the time that metadata asks for; zero: none.
func metaTime(meta map[string]string) (time.Time, error) {
	s := meta[MetaMtime]
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return t, vfs.Errorf(vfs.KindInvalid, "upload", "mtime %.40q: write it as 2026-11-26T20:00:00Z", s)
	}
	return t, nil
}
