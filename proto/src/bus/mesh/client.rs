//! The half that uses events which another node keeps, or this one.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

use super::wire::{Frame, Run, Why};
use super::{EACH, Event, PART, Part, Role, Way};
use crate::bus::MAX_EVENT;
use crate::identity::EntityId;
use crate::session::Peer;

/// Where frames go: whose events, for what, of which name.
pub(super) type Route = (EntityId, Role, String);

#[derive(Debug, Default)]
struct Path {
    way: Option<Way>,
    /// Whose lane it is.
    peer: Option<Peer>,
    out: VecDeque<Frame>,
}

#[derive(Debug)]
struct Call {
    route: Route,
    parts: Vec<Part>,
    /// What may still come.
    bytes: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Client {
    paths: BTreeMap<Route, Path>,
    ways: BTreeMap<Way, Route>,
    /// Links by their number, with where they go.
    links: BTreeMap<u64, Route>,
    calls: BTreeMap<u64, Call>,
    busy: BTreeSet<Route>,
    /// Bytes of events that wait to be sent.
    queued: usize,
    pub events: VecDeque<Event>,
}

impl Client {
    /// Bytes of events that wait to be sent.
    pub const fn queued(&self) -> usize {
        self.queued
    }

    fn push(&mut self, route: &Route, frame: Frame) {
        if let Frame::Append { run, .. } = &frame {
            self.queued += run.bytes();
        }
        self.paths.entry(route.clone()).or_default().out.push_back(frame);
        self.busy.insert(route.clone());
    }

    /// A link for writing, by the number under which its events come.
    pub fn link(&mut self, link: u64, route: Route) {
        self.links.insert(link, route);
    }

    /// Sends events on a link. Of a link that is over they are dropped: it has told so.
    pub fn append(&mut self, frame: Frame) {
        let Frame::Append { link, .. } = frame else { return };
        if let Some(route) = self.links.get(&link).cloned() {
            self.push(&route, frame);
        }
    }

    /// Nobody uses the link any more.
    pub fn unlink(&mut self, link: u64) {
        self.links.remove(&link);
    }

    /// Asks something; the answer carries the number of the call.
    pub fn call(&mut self, call: u64, route: Route, frame: Frame) {
        // The event that passes the limit comes whole, and a part is cut behind the event that passes its own.
        let bytes = match &frame {
            Frame::Read { bytes, from, .. } => {
                *bytes as usize + PART + MAX_EVENT as usize + from.len() * EACH
            }
            _ => 0,
        };
        self.calls.insert(call, Call { route: route.clone(), parts: Vec::new(), bytes });
        self.push(&route, frame);
    }

    /// The caller waits no more.
    pub fn cancel(&mut self, call: u64) {
        let Some(gone) = self.calls.remove(&call) else { return };
        if gone.route.1 == Role::Read && self.paths.contains_key(&gone.route) {
            self.push(&gone.route, Frame::Cancel { call });
        }
    }

    /// What came on a way; `None` if it does not decode. Answers whether that was in order; if not, the way is
    /// to be closed.
    pub fn received(&mut self, way: Way, frame: Option<Frame>) -> bool {
        let Some(route) = self.ways.get(&way) else { return true };
        let ours = |call: &Call| call.route == *route;
        match frame {
            Some(Frame::Appended { link, upto }) => {
                if self.links.get(&link) == Some(route) {
                    self.events.push_back(Event::Acked { link, upto });
                }
            }
            Some(Frame::Failed { link, why }) => {
                if self.links.get(&link) == Some(route) {
                    self.links.remove(&link);
                    self.events.push_back(Event::Broken { link, why });
                }
            }
            Some(Frame::Part { call, shard, lost, more, at, run }) => {
                let Some(call) = self.calls.get_mut(&call).filter(|c| ours(c)) else { return true };
                let cost = EACH + run.as_ref().map_or(0, Run::bytes);
                let Some(left) = call.bytes.checked_sub(cost) else { return false };
                call.bytes = left;
                match call.parts.last_mut().filter(|part| part.shard == shard && lost.is_none()) {
                    Some(part) => {
                        part.runs.extend(run.map(|run| (at, run)));
                        part.more = more;
                    }
                    None => {
                        let runs = run.map(|run| (at, run)).into_iter().collect();
                        call.parts.push(Part { shard, lost, more, runs });
                    }
                }
            }
            Some(Frame::Done { call }) => {
                if self.calls.get(&call).is_some_and(ours)
                    && let Some(done) = self.calls.remove(&call)
                {
                    self.events.push_back(Event::Page { call, parts: done.parts });
                }
            }
            Some(Frame::Ends { call, ends }) => {
                if self.calls.get(&call).is_some_and(ours) {
                    self.calls.remove(&call);
                    self.events.push_back(Event::Ends { call, ends });
                }
            }
            Some(Frame::Refused { call, why }) => {
                if self.calls.get(&call).is_some_and(ours) {
                    self.calls.remove(&call);
                    self.events.push_back(Event::Refused { call, why });
                }
            }
            _ => return false,
        }
        true
    }

    /// Whether a way is one of this half.
    pub fn has(&self, way: Way) -> bool {
        self.ways.contains_key(&way)
    }

    /// A way is over.
    pub fn closed(&mut self, way: Way, why: Why) {
        if let Some(route) = self.ways.get(&way).cloned() {
            self.end(&route, why);
        }
    }

    /// An association is gone: what went over it ends, and, if nothing else leads to `entity`, all to it.
    pub fn down(&mut self, peer: Peer, entity: Option<&EntityId>) {
        let over = |(route, path): &(&Route, &Path)| path.peer == Some(peer) || entity == Some(&route.0);
        let gone: Vec<Route> = self.paths.iter().filter(over).map(|(route, _)| route.clone()).collect();
        gone.iter().for_each(|route| self.end(route, Why::Down));
        // Links that sent nothing yet have no path.
        self.end_uses(|route| entity == Some(&route.0), Why::Down);
    }

    /// A route is over, with everything on it.
    pub fn end(&mut self, route: &Route, why: Why) {
        if let Some(path) = self.paths.remove(route) {
            path.out.iter().for_each(|frame| self.queued = self.queued.saturating_sub(bytes(frame)));
            path.way.map(|way| self.ways.remove(&way));
        }
        self.busy.remove(route);
        self.end_uses(|other| other == route, why);
    }

    fn end_uses(&mut self, of: impl Fn(&Route) -> bool, why: Why) {
        let events = &mut self.events;
        self.links.retain(|link, route| {
            let ends = of(route);
            if ends {
                events.push_back(Event::Broken { link: *link, why });
            }
            !ends
        });
        self.calls.retain(|call, state| {
            let ends = of(&state.route);
            if ends {
                events.push_back(Event::Refused { call: *call, why });
            }
            !ends
        });
    }

    /// A way could not send, and may now.
    pub fn writable(&mut self, way: Way) {
        if let Some(route) = self.ways.get(&way) {
            self.busy.insert(route.clone());
        }
    }

    /// Routes that have something to send.
    pub fn busy(&self) -> Vec<Route> {
        self.busy.iter().cloned().collect()
    }

    /// Whether any route has something to send whose way is like that, or not open yet.
    pub fn any_busy(&self, like: impl Fn(Way) -> bool) -> bool {
        self.busy.iter().any(|route| self.way(route).is_none_or(&like))
    }

    /// The way of a route, if it was opened.
    pub fn way(&self, route: &Route) -> Option<Way> {
        self.paths.get(route)?.way
    }

    /// A route was opened.
    pub fn opened(&mut self, route: &Route, way: Way, peer: Option<Peer>) {
        if let Some(path) = self.paths.get_mut(route) {
            (path.way, path.peer) = (Some(way), peer);
            self.ways.insert(way, route.clone());
        }
    }

    /// The next frame of a route, without taking it.
    pub fn peek(&self, route: &Route) -> Option<&Frame> {
        self.paths.get(route)?.out.front()
    }

    /// Takes it.
    pub fn pop(&mut self, route: &Route) -> Option<Frame> {
        let path = self.paths.get_mut(route)?;
        let frame = path.out.pop_front();
        if path.out.is_empty() {
            self.busy.remove(route);
        }
        if let Some(frame) = &frame {
            self.queued = self.queued.saturating_sub(bytes(frame));
        }
        frame
    }

    /// Routes to a name that nobody uses any more: no link, no call, nothing to send.
    pub fn unused(&mut self, to: &EntityId, name: &str) -> Vec<Way> {
        let used = |route: &Route| {
            self.links.values().any(|r| r == route) || self.calls.values().any(|call| call.route == *route)
        };
        let idle = |(route, path): &(&Route, &Path)| {
            route.0 == *to && route.2 == name && path.out.is_empty() && !used(route)
        };
        let gone: Vec<Route> = self.paths.iter().filter(idle).map(|(route, _)| route.clone()).collect();
        let take = |route: Route| {
            let way = self.paths.remove(&route)?.way?;
            self.ways.remove(&way);
            Some(way)
        };
        gone.into_iter().filter_map(take).collect()
    }

    /// Bytes that it may come to hold for the calls of now.
    pub fn ceiling(&self) -> u64 {
        let calls: usize = self.calls.values().map(|call| call.bytes + size_of::<Call>()).sum();
        let paths = self.paths.len() * (size_of::<Path>() + size_of::<Route>() * 2);
        (super::MAX_QUEUED * 2 + calls + paths) as u64
    }
}

fn bytes(frame: &Frame) -> usize {
    if let Frame::Append { run, .. } = frame { run.bytes() } else { 0 }
}
