// Package background is how workers do background work with the permission of the leader of a shard: stores survey, repair
// and scrub with that of shard 0, gateways rewrite files with that of the namespace's shard. Package ledger is what the leader decides with.
//
// # Protocol
//
// A worker has a Desk for each shard whose work it does. Before it begins a task it acquires a Permit. The Desk reports to the leader all
// that its worker does and waits for: each Options.AskEvery while something waits, each Options.ReportEvery while something runs,
// and once when nothing is left. The answer names the tasks that may run, and how fast. A running task that it does not name is
// taken back: the permit's context ends, and the worker asks again. So does one whose permission was not renewed for the
// time the leader said, by the worker's own clock, from when it sent the report that was answered last.
//
// Permits bound how much is done and in which order, and make it visible. They exclude nobody: everything that is done with one is safe
// beside others that do the same (package upkeep, package rewrite), because leaders change, reports are lost, and processes
// stand still.
//
// # Without a leader
//
// When no leader has answered for as long as a class's patience, a task of it is begun without permission, at a low rate of the worker's own. It is
// reported when there is a leader again, which may take it back. The scrub has no patience: it is slow anyhow. Surveys and repair wait a minute, so that
// a change of leaders lets nothing begin at once everywhere; after that a lost majority of shard 0, which may last for days,
// costs speed and order but not the data that further losses would take away. Rewriting has no end of patience: it does nothing without metadata.
package background
