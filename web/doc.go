// Package web is the dashboard: a page that does everything by the HTTP API, with the session of a browser (api.Public). The
// binary has it built, under dist, so that `go build` needs nothing but Go.
//
// # Building
//
// The sources are in src (TypeScript, React, Mantine); `make web` installs the pinned packages of package-lock.json, writes the types of the API's document,
// checks types, and builds dist, which is committed. The build is reproducible: same sources, same bytes. dist/SOURCES has the digest of what it was built from, and a test
// compares that with the sources, so that nobody forgets to build; where npm can install the packages, another one builds anew and compares all.
//
// The document that the types are made of, openapi.json, has the operations that the dashboard calls and no others. A test
// checks that the served API still has all of it.
//
// # Trust
//
// Names of files, of tokens, of anything are text that others chose. React puts text into the page as text. Besides, the policy of the page lets no script run
// but those that are served here, loads nothing from elsewhere and may not be framed; styles need a nonce, which is another one for each answer. What a file contains is never
// navigated to: it is downloaded, or shown as text, or as an image from a blob. The token is typed once and then in a cookie that scripts cannot read; secrets of
// other clouds are in the memory of a form until it is sent.
package web
