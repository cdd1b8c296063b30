package cloudimport

import (
	"cmp"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/rackfs/rackfs/vfs"
)

// Kinds of sources.
const (
	S3 = "s3" // Amazon's, or with an endpoint anything that speaks its protocol
	R2 = "r2" // Cloudflare's
)

const (
	awsEndpoint   = "https://s3.amazonaws.com"
	defaultRegion = "us-east-1"
	r2Region      = "auto"

	maxEndpoint = 512
	maxKey      = 1024 // bytes of an object's key, by S3's rules
	maxRegion   = 64
)

// Source says which objects.
type Source struct {
	Kind     string `json:"kind"`
	Endpoint string `json:"endpoint"` // URL without a path; of S3 "" for Amazon's
	Bucket   string `json:"bucket"`
	Region   string `json:"region,omitempty"`
	Prefix   string `json:"prefix,omitempty"` // of keys
}

// Check refuses what cannot be meant, and fills in what was left out.
func (s Source) Check() (Source, error) {
	const op = "import"
	bad := func(format string, args ...any) (Source, error) {
		return Source{}, vfs.Errorf(vfs.KindInvalid, op, format, args...)
	}
	if s.Kind != S3 && s.Kind != R2 {
		return bad("source %q: use %s or %s", s.Kind, S3, R2)
	}
	if s.Bucket == "" {
		return bad("a bucket name is needed")
	}
	if err := s3utils.CheckValidBucketName(s.Bucket); err != nil {
		return bad("bucket %q: %w", clip(s.Bucket), err)
	}
	if len(s.Prefix) > maxKey || !utf8.ValidString(s.Prefix) || strings.ContainsRune(s.Prefix, 0) {
		return bad("the prefix is to be at most %d bytes of UTF-8 without NUL", maxKey)
	}
	if s.Region != "" && !goodRegion(s.Region) {
		return bad("region %q: use letters, digits and '-', such as eu-west-1", clip(s.Region))
	}
	if s.Endpoint == "" {
		if s.Kind == R2 {
			return bad("the endpoint is needed: https://ACCOUNT.r2.cloudflarestorage.com, without the bucket")
		}
		s.Endpoint = awsEndpoint
		return s, nil
	}
	u, err := s.endpoint()
	if err != nil {
		return Source{}, err
	}
	s.Endpoint = u.Scheme + "://" + u.Host
	if s.Kind == R2 {
		s.Region = cmp.Or(s.Region, r2Region)
	} else if !s3utils.IsAmazonEndpoint(*u) {
		s.Region = cmp.Or(s.Region, defaultRegion)
	}
	return s, nil
}

func goodRegion(s string) bool {
	return s != "" && len(s) <= maxRegion && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") == ""
}

// endpoint reads the URL.
func (s *Source) endpoint() (*url.URL, error) {
	const op = "import"
	bad := func(format string, args ...any) (*url.URL, error) {
		return nil, vfs.Errorf(vfs.KindInvalid, op, format, args...)
	}
	if len(s.Endpoint) > maxEndpoint {
		return bad("the endpoint has %d bytes, at most %d", len(s.Endpoint), maxEndpoint)
	}
	u, err := url.Parse(s.Endpoint)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || u.Opaque != "" {
		return bad("the endpoint is no URL such as https://s3.example.com") // it is not repeated: it may have a password in it
	}
	if u.User != nil {
		return bad("the endpoint has a user name in it: keys are given apart from it")
	}
	without := u.Scheme + "://" + u.Host
	shown := without + u.EscapedPath() // the query of a presigned URL is a secret
	host := strings.ToLower(u.Hostname())
	if path := strings.Trim(u.Path, "/"); path != "" {
		if first, _, _ := strings.Cut(path, "/"); first == s.Bucket {
			return bad("endpoint %s: it has the bucket's name in it: leave that out, %s is the endpoint", shown, without)
		}
		return bad("endpoint %s: it has a path: the endpoint is %s, without the bucket's name", shown, without)
	}
	if rest, ok := strings.CutPrefix(host, strings.ToLower(s.Bucket)+"."); ok && strings.Contains(rest, ".") {
		return bad("endpoint %s: it has the bucket's name in it: leave that out, %s://%s is the endpoint", shown, u.Scheme, strings.Replace(strings.ToLower(u.Host), host, rest, 1))
	}
	if u.RawQuery != "" || u.Fragment != "" || u.ForceQuery {
		return bad("the endpoint has a query or a fragment: the endpoint is %s", without)
	}
	if p := u.Port(); p == "0" || strings.HasSuffix(u.Host, ":") {
		return bad("endpoint %s: its port is missing", without)
	}
	return u, nil
}

// Shown is the source as people write it; it has no secrets.
func (s *Source) Shown() string {
	host := strings.TrimPrefix(strings.TrimPrefix(s.Endpoint, "https://"), "http://")
	return Shown(s.Bucket+"/"+s.Prefix) + " at " + host
}

// literal is the address that the endpoint itself is, if it is one.
func (s *Source) literal() (netip.Addr, bool) {
	u, err := url.Parse(s.Endpoint)
	if err != nil {
		return netip.Addr{}, false
	}
	host := u.Hostname()
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip, err := netip.ParseAddr(host)
	return ip, err == nil
}

// Secrets are what the endpoint knows its user by.
type Secrets struct {
	AccessKey    string `json:"access_key"`
	SecretKey    string `json:"secret_key"`
	SessionToken string `json:"session_token,omitempty"`
}

const (
	maxAccessKey = 256
	maxSecretKey = 512
	maxToken     = 4096
)

// Check refuses what cannot be keys, without repeating them.
func (s *Secrets) Check() error {
	for _, k := range []struct {
		what, value string
		most        int
		needed      bool
	}{{"access key", s.AccessKey, maxAccessKey, true}, {"secret key", s.SecretKey, maxSecretKey, true}, {"session token", s.SessionToken, maxToken, false}} {
		switch {
		case k.value == "" && k.needed:
			return vfs.Errorf(vfs.KindInvalid, "import", "the %s is missing", k.what)
		case len(k.value) > k.most:
			return vfs.Errorf(vfs.KindInvalid, "import", "the %s has %d bytes, at most %d", k.what, len(k.value), k.most)
		}
		for i := range len(k.value) {
			if c := k.value[i]; c <= ' ' || c > '~' {
				return vfs.Errorf(vfs.KindInvalid, "import", "the %s has characters in it that keys do not have, such as spaces", k.what)
			}
		}
	}
	return nil
}

// redact takes the secrets out of a text. Of a long one the beginning is enough, for the text may have been cut; what follows it goes too.
func (s *Secrets) redact(text string) string {
	for _, v := range []string{s.SessionToken, s.SecretKey, s.AccessKey} {
		for _, v := range []string{v, url.QueryEscape(v)} {
			switch {
			case len(v) >= redactFrom:
				if i := strings.Index(text, v[:redactFrom]); i >= 0 {
					text = text[:i] + "***"
				}
			case len(v) >= minRedacted:
				text = strings.ReplaceAll(text, v, "***")
			}
		}
	}
	return text
}

const (
	// minRedacted is the length from which on a key is looked for in texts: what is shorter is in any text.
	minRedacted = 4
	// redactFrom is how much of the beginning of a long one is looked for.
	redactFrom = 16
)

// longestShown bounds what is shown of a key, or of a text of the endpoint.
const longestShown = 160

func clip(s string) string {
	if len(s) <= longestShown {
		return s
	}
	n := longestShown
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}
