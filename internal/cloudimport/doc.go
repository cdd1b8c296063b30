// Package cloudimport copies the objects of a bucket of S3, R2, or anything that speaks their protocol, into a directory of a file system.
//
// It runs as a job (package jobs), so it outlives who asked for it and the gateway that does it. An Engine, one of each gateway, has what its operator configured: which
// addresses may be reached, how many objects at a time, how many bytes per second.
//
// # From a key to a path
//
// The directory that the prefix names is cut off, the rest of a key is a path below the destination; a key that ends with '/' is a directory. Keys are made into nothing else: what is no path
// (names "", "." and "..", NUL, over 255 bytes, not UTF-8), or is below another object as if that was a directory, is refused, counted, and named in the report. Planner is the pure
// part of this, and conflict what is done if there is a file already.
//
// # Going on after a restart
//
// Objects are listed in the order of their keys. A window of them is under way; the checkpoint says up to which key all are done, and which in the window behind it are. A worker takes the
// next object only when shard 0 has recorded the one before, and many workers share one record. So an object is read again only if it was in progress when the gateway ended, and
// there are at most as many of those as workers. Listing begins behind the key.
//
// An object that takes long does not hold the window: the checkpoint names those that the window has left behind, and one more key, up to which all others are done. Who goes on lists
// from before the first of them, and passes over the others without reading them.
//
// # What is verified
//
// That the size is the one listed; that the answer's ETag is; the content against the checksums that the endpoint sends (x-amz-checksum-*), and against the ETag, if that is an MD5: of an object that
// was put as a whole and is not encrypted with keys of the customer, or of parts of one size. What has none of these is counted as verified by its size only. A file appears under its name when
// all that is good, or not at all (package files).
//
// # Who may be reached
//
// An endpoint is an address that a user chooses and a gateway calls, from where it stands. So each connection is made to public addresses only, but for those that the operator allows, and that is decided when it is
// made, by the address that the name has then. Proxies of the environment are not used. Redirects are not followed. HTTP without TLS is for allowed addresses only.
//
// # Secrets
//
// Keys are in memory while they are used. In the job's record they are sealed by AES-256-GCM with a key that is derived from that of the cluster's CA, which is on meta nodes and in no metadata,
// bound to what the job is about; the record loses them when the job is over. Texts of the endpoint are searched for them before they get into errors.
package cloudimport
