// Package nodegroup looks after the stores of the cluster and keeps the placement groups right: it observes, has
// package placement decide, and proposes the changes to shard 0.
//
// # Who does it
//
// Every voter process runs a Manager. The one whose replica of shard 0 leads and serves is at work; it begins with
// no memory of earlier leaders, and stops as soon as it does not lead any more. A proposal that is late, because its
// leader was paused or deposed, does no harm:
//
//   - A change of slots names the epoch of the group it was made from; another change since then raised it, and
//     the late one is refused. A new group whose id was given out meanwhile is refused.
//   - Closing a group leaves its epoch. A late one may stand until the leader's next look;
//     meanwhile writers have a group less to choose from. Opening one raises the epoch, see below.
//   - A removal is prepared so that it stays right, see below.
//
// # Observation
//
// Every store is probed (OpInfo) every ProbeEvery. Its state follows with hysteresis:
//
//	unknown  a new leader has not heard of it yet; nothing is planned until no store is unknown
//	up       takes writes, and has room for them
//	down     two probes in a row and FailAfter without that. Groups that name it are not counted on for writes. One that is not answered
//	         in FailAfter is followed by a second beside it
//	suspect  the same for SuspectAfter
//	out      silent for OutAfter: its slots move to other stores, if there are any. A store that answers but takes no writes, or is full,
//	         is never given up by itself: it still serves what it has
//
// It is up again when probes succeeded for UpAfter. That a gateway's write failed needs no message: a store that
// refuses a write for longer than a moment does not pass the next probes either, so that writers have
// other groups after ProbeEvery + FailAfter and a command. A record that says STORE_OUT (an operator's) counts as out at once, STORE_LOST is never probed.
// Another store behind the address of the one that was recorded (its uuid differs) counts as silence.
//
// A hint (Manager.Hint, from gossip) makes the next probe be now. It says nothing by itself.
//
// The time of a probe is that of its begin, by a clock that never runs backward. No state of this is
// durable: after a change of leaders the hysteresis begins anew.
//
// # Growth
//
// A pool whose record says how many groups there are per store gets its first groups when its stores are in as many failure domains
// as the profile has shards, and more for stores that are added. Until then new blocks go to fallback groups: with the same
// parity and fewer data shards; or writers wait, with no more domains than parity shards. Slots of older groups move on to stores that are
// added, or wanted again, until all have what their capacity asks for: a few at a time, and none while something is amiss in its group (placement.Plan).
//
// What stores can be stopped (StopOf), and how pools stand (Current), is answered from what the leader observes and the newest map, by whoever has its status and the map. The leader's
// own last look (Manager.Status) lags behind the map.
//
// # Removal of fallback groups
//
// A closed fallback group goes away when nothing is in it. That is looked for beside the observation of the stores, which never waits for it, and
// for all such groups together: there is no index of blocks by group, so one scan of all blocks, at a bounded rate, answers for all of them. The order makes it safe against gateways that still hold an older map:
// every member lists no shard of it; every member is fenced at the group's epoch + 1, so that no write under an older map can be
// acknowledged by all of them from then on; every member again lists no shard, so none was before; no live or dying block of any
// namespace shard names it; then it is removed, if it still has that epoch. Whatever happens between these
// steps, no block can get into the group without a new epoch, for which the removal is refused. A group of which
// not all steps succeeded stays, and its members take no writes of its epoch any more: so whoever opens it again raises that.
//
// All groups of a pool that is to be removed (Pool.retiring) are closed and go in the same way, at last the pool.
//
// # Node groups
//
// A store may hold a pool's data if placement.Reservations.Eligible says so. One that may not is out for that pool, however well it is: its
// slots move to others, as those of a drained store do. A placement group with a slot that has nowhere to go is closed, so nothing more is written there.
// The state machine never gives a placement group such a store, so a plan that was made before a rack was reserved is refused. Who has an
// older map is refused by epochs, once a slot has moved: its new store has every member acknowledge the new one before it calls itself filled.
//
// What rebuilds shards of slots that are being filled is package upkeep on the stores; what rewrites the blocks of
// fallback groups is the gateway.
package nodegroup
