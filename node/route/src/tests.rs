//! What a router promises, one promise a test; and what holds in any sequence of inputs.

use std::collections::BTreeMap;

use proptest::prelude::*;
use types::{Reason, ServiceName};

use crate::call::{Attempt, Decision, Outcome, Request, Route};
use crate::config::Config;
use crate::endpoint::{State, Why};
use crate::service::ENDPOINTS_MAX;
use crate::testing::{Story, answered, endpoint, idx_of, ms, service};

fn failed(status: u8) -> Outcome {
    Outcome::Answered { latency: ms(1), status: Some(status) }
}

#[test]
fn an_unknown_service_and_one_without_healthy_endpoints_are_told_apart() {
    let mut story = Story::new(0);
    let refusal = story.tries(Attempt::First).expect_err("no endpoint");
    assert_eq!(
        (refusal.reason, refusal.detail.as_str()),
        (Reason::ServiceUnknown, "no node offers `orders`")
    );
    story.offered = vec![endpoint(0), endpoint(1)];
    for endpoint in &mut story.offered {
        endpoint.is_healthy = false;
    }
    story.update();
    let refusal = story.tries(Attempt::First).expect_err("no healthy endpoint");
    assert_eq!(refusal.reason, Reason::NoEndpoint);
    assert_eq!(refusal.detail, "`orders` has 2 endpoints: 2 unhealthy");
}

#[test]
fn a_call_has_its_own_deadline_or_the_configured_one() {
    let mut story = Story::new(1);
    assert_eq!(story.calls().deadline, story.now.mono + Config::default().timeout);
    let deadline = Some(story.now.mono + ms(7));
    let service = service();
    let request = Request { service: &service, deadline, attempt: Attempt::First };
    let Decision::Send(route) = story.router.decide(story.now, &request) else { panic!("it is sent") };
    assert_eq!(Some(route.deadline), deadline);
    story.waits(ms(7));
    let Decision::Refuse(refusal) = story.router.decide(story.now, &request) else { panic!("it is late") };
    assert_eq!(refusal.reason, Reason::DeadlineExceeded);
}

#[test]
fn calls_flow_to_the_faster_endpoint_and_to_both_when_they_are_many() {
    let mut story = Story::new(2);
    let mut taken = [0, 0];
    for _ in 0..200 {
        let route = story.calls();
        let idx = idx_of(&route.endpoint);
        let latency = if idx == 0 { ms(2) } else { ms(6) };
        story.waits(latency);
        story.reports(&route, answered(latency));
        taken[idx] += 1;
    }
    assert!(taken[0] > 190 && taken[1] > 0, "{taken:?}");
    let many: Vec<Route> = (0..40).map(|_| story.calls()).collect();
    let slower = many.iter().filter(|route| idx_of(&route.endpoint) == 1).count();
    assert!(
        (5..=15).contains(&slower),
        "{slower} of 40 calls wait at the endpoint that takes thrice as long"
    );
}

#[test]
fn a_new_endpoint_is_neither_flooded_nor_starved() {
    let mut story = Story::new(2);
    for _ in 0..100 {
        story.makes(ms(5));
    }
    story.offered.push(endpoint(2));
    story.update();
    let burst: Vec<Route> = (0..30).map(|_| story.calls()).collect();
    let new = burst.iter().filter(|route| idx_of(&route.endpoint) == 2).count();
    assert!((6..=14).contains(&new), "{new} of 30");
}

#[test]
fn an_endpoint_that_was_never_called_is_tried_however_slow_the_first_call_was() {
    let mut story = Story::new(2);
    let first = story.makes(ms(50));
    story.waits(ms(10_000));
    let taken: Vec<usize> = (0..50).map(|_| story.makes(ms(1))).collect();
    assert!(taken.iter().any(|idx| *idx != first), "all went to {first}");
}

#[test]
fn an_endpoint_that_is_silent_gets_no_calls_until_it_answers() {
    let mut story = Story::new(2);
    for _ in 0..50 {
        story.makes(ms(3));
    }
    let silent = story.calls_at(0);
    story.waits(ms(21));
    assert_eq!(story.state(0), State::Stalled);
    for _ in 0..200 {
        assert_eq!(story.makes(ms(1)), 1);
    }
    story.reports(&silent, answered(ms(221)));
    assert_eq!(story.state(0), State::Ready);
}

#[test]
fn an_endpoint_with_slow_calls_that_answers_others_is_not_stalled() {
    let mut story = Story::new(1);
    let slow = story.calls();
    for _ in 0..100 {
        story.waits(ms(15));
        story.makes(ms(5));
        assert_eq!(story.state(0), State::Ready);
    }
    story.waits(ms(60_000));
    assert_eq!(story.state(0), State::Ready, "nothing is owed but the slow call");
    story.reports(&slow, Outcome::Cancelled);
}

#[test]
fn a_stalled_endpoint_is_tried_ever_more_rarely_and_comes_back_by_one_answer() {
    let mut story = Story::new(2);
    story.calls_at(0);
    let start = story.now.mono;
    let mut tried = Vec::new();
    while tried.len() < 8 {
        let route = story.calls();
        if idx_of(&route.endpoint) == 0 {
            tried.push((story.now.mono - start).as_secs_f64());
        }
        story.waits(ms(5));
        if idx_of(&route.endpoint) == 1 {
            story.reports(&route, answered(ms(5)));
        }
    }
    // The first ones belong to the time before the stall is noticed.
    let late: Vec<f64> = tried.into_iter().filter(|at| *at > 0.1).collect();
    let gaps: Vec<f64> = late.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((0.7..=1.4).contains(&late[0]), "{late:?}");
    for (gap, expected) in gaps.iter().zip([2.0, 4.0, 8.0, 16.0, 30.0]) {
        assert!((0.79 * expected..=1.21 * expected).contains(gap), "{gaps:?}");
    }
    let route = loop {
        let route = story.calls();
        story.waits(ms(5));
        if idx_of(&route.endpoint) == 0 {
            break route;
        }
        story.reports(&route, answered(ms(5)));
    };
    story.reports(&route, answered(ms(5)));
    assert_eq!(story.state(0), State::Ready);
}

#[test]
fn few_calls_are_risked_on_a_stalled_endpoint_though_few_are_made() {
    let mut story = Story::new(2);
    story.calls_at(0);
    story.waits(ms(10_000));
    let risked = (0..200).filter(|_| {
        let route = story.calls();
        story.waits(ms(10_000));
        let is_silent = idx_of(&route.endpoint) == 0;
        assert_eq!(route.is_trial, is_silent);
        story.reports(&route, if is_silent { Outcome::TimedOut } else { answered(ms(5)) });
        is_silent
    });
    let risked = risked.count();
    assert!((5..=10).contains(&risked), "{risked} of 200");
}

#[test]
fn an_unreachable_endpoint_is_out_at_once_and_back_by_one_call() {
    let mut story = Story::new(2);
    let route = story.calls_at(0);
    story.reports(&route, Outcome::Unsent);
    let State::Ejected { until, why } = story.state(0) else { panic!("{:?}", story.state(0)) };
    assert_eq!(why, Why::Unreachable);
    assert!((ms(400)..=ms(600)).contains(&(until - story.now.mono)));
    while story.now.mono + ms(1) < until {
        assert_eq!(story.makes(ms(1)), 1);
    }
    story.waits(ms(2));
    let trial = story.calls();
    assert_eq!(idx_of(&trial.endpoint), 0, "half open: one call goes there");
    assert_eq!(story.makes(ms(1)), 1, "and one only");
    story.reports(&trial, answered(ms(3)));
    assert_eq!(story.state(0), State::Ready);
}

#[test]
fn an_answer_from_before_the_ejection_does_not_end_it() {
    let mut story = Story::new(2);
    let early = story.calls_at(0);
    story.waits(ms(1));
    let route = story.calls_at(0);
    story.waits(ms(1));
    story.reports(&route, Outcome::Lost);
    story.reports(&early, answered(ms(2)));
    assert!(matches!(story.state(0), State::Ejected { why: Why::Lost, .. }));
}

#[test]
fn failures_in_a_row_eject_down_to_the_floor() {
    let mut story = Story::new(5);
    for status in [2, 4, 13, 14, 15].into_iter().cycle().take(200) {
        let route = story.calls();
        story.reports(&route, failed(status));
    }
    let n_ready = (0..5).filter(|idx| story.state(*idx) == State::Ready).count();
    assert_eq!(n_ready, 3, "half of five, rounded up");
    let mut story = Story::new(1);
    for _ in 0..20 {
        let route = story.calls();
        story.reports(&route, Outcome::TimedOut);
    }
    assert_eq!(story.state(0), State::Ready, "the only one stays");
}

#[test]
fn refusals_by_the_application_eject_nothing() {
    let mut story = Story::new(2);
    for status in [1, 3, 5, 6, 7, 8, 9, 10, 11, 12, 16].into_iter().cycle().take(200) {
        let route = story.calls();
        story.reports(&route, failed(status));
    }
    assert_eq!((story.state(0), story.state(1)), (State::Ready, State::Ready));
}

#[test]
fn when_all_are_out_the_least_bad_is_taken() {
    let mut story = Story::new(3);
    let silent = story.calls_at(0);
    let [lost, unsent] = [1, 2].map(|idx| story.calls_at(idx));
    story.reports(&lost, Outcome::Lost);
    story.reports(&unsent, Outcome::Unsent);
    story.waits(ms(30));
    assert_eq!(idx_of(&story.calls().endpoint), 1);
    let unhealthy = &mut story.offered[1];
    unhealthy.is_healthy = false;
    story.update();
    assert_eq!(idx_of(&story.calls().endpoint), 2, "by its own word the other takes nothing");
    story.reports(&silent, Outcome::Cancelled);
}

#[test]
fn a_call_that_was_not_sent_goes_elsewhere_thrice_at_most() {
    let mut story = Story::new(4);
    let mut tried = Vec::new();
    for n in 0..3 {
        let attempt = if n == 0 { Attempt::First } else { Attempt::Again(&tried) };
        let route = story.tries(attempt).expect("another endpoint");
        assert!(!tried.contains(&route.endpoint.id));
        story.reports(&route, Outcome::Unsent);
        tried.push(route.endpoint.id.clone());
    }
    let refusal = story.tries(Attempt::Again(&tried)).expect_err("three are enough");
    assert_eq!(refusal.reason, Reason::EndpointUnreachable);
    for part in ["no connection for `orders` to n", "route.attempts_max", "4 endpoints: 3 ejected"] {
        assert!(refusal.detail.contains(part), "{refusal}");
    }
}

#[test]
fn a_storm_of_further_attempts_is_refused() {
    let mut story = Story::new(2);
    let tried = [endpoint(0).id];
    let mut n_sent = 0;
    let refusal = loop {
        match story.tries(Attempt::Again(&tried)) {
            Ok(route) => story.reports(&route, Outcome::Unsent),
            Err(refusal) => break refusal,
        }
        n_sent += 1;
    };
    assert_eq!(n_sent, 100);
    assert_eq!(refusal.reason, Reason::EndpointUnreachable);
    assert!(refusal.detail.contains("route.retry_percent"), "{refusal}");
}

#[test]
fn bounds_of_calls_are_kept_and_named() {
    let config = Config { endpoint_calls_max: 2, service_calls_max: 5, ..Config::default() };
    let mut story = Story::with(2, config.clone(), 1);
    let routes: Vec<Route> = (0..4).map(|_| story.calls()).collect();
    let refusal = story.tries(Attempt::First).expect_err("both are full");
    assert_eq!(refusal.reason, Reason::Overloaded);
    assert!(refusal.detail.contains("route.endpoint_calls_max"), "{refusal}");
    story.reports(&routes[0], Outcome::Unsent);
    let refusal = story.tries(Attempt::First).expect_err("what is out is no relief");
    assert_eq!(refusal.reason, Reason::Overloaded);
    let mut story = Story::with(3, config, 1);
    let routes: Vec<Route> = (0..5).map(|_| story.calls()).collect();
    let refusal = story.tries(Attempt::First).expect_err("the service is full");
    assert!(refusal.detail.contains("route.service_calls_max"), "{refusal}");
    story.reports(&routes[0], answered(ms(1)));
    story.calls();
}

#[test]
fn what_was_learnt_stays_with_endpoints_that_stay() {
    let mut story = Story::new(2);
    let route = story.calls_at(0);
    story.reports(&route, Outcome::Unsent);
    story.offered.push(endpoint(2));
    story.update();
    assert!(matches!(story.state(0), State::Ejected { .. }));
    story.offered[0].address = ([10, 0, 0, 2], 7450).into();
    story.update();
    assert_eq!(story.state(0), State::Ready, "another address, another chance");
}

#[test]
fn a_node_that_says_it_is_well_again_is_tried_at_once() {
    let mut story = Story::new(2);
    let route = story.calls_at(0);
    story.reports(&route, Outcome::Unsent);
    for is_healthy in [false, true] {
        story.offered[0].is_healthy = is_healthy;
        story.update();
    }
    assert_eq!(story.makes(ms(1)), 0);
    assert_eq!(story.state(0), State::Ready);
}

#[test]
fn calls_to_what_is_gone_are_counted_until_they_are_reported() {
    let mut story = Story::new(1);
    let route = story.calls();
    let offered = std::mem::take(&mut story.offered);
    story.update();
    let refusal = story.tries(Attempt::First).expect_err("gone");
    assert_eq!(refusal.reason, Reason::ServiceUnknown);
    assert_eq!(story.router.services().count(), 0);
    story.offered = offered;
    story.update();
    assert_eq!(story.router.endpoints(story.now, &service())[0].in_flight, 1);
    for _ in 0..2 {
        story.reports(&route, Outcome::Cancelled);
        assert_eq!(story.router.endpoints(story.now, &service())[0].in_flight, 0);
    }
}

#[test]
fn too_many_endpoints_are_left_out_the_unhealthy_first() {
    let mut story = Story::new(ENDPOINTS_MAX + 3);
    assert_eq!(story.router.left_out(), 3);
    for endpoint in &mut story.offered[..7] {
        endpoint.is_healthy = false;
    }
    story.offered.push(story.offered[8].clone());
    story.update();
    let views = story.router.endpoints(story.now, &service());
    assert_eq!(views.len(), ENDPOINTS_MAX);
    assert_eq!(views.iter().filter(|view| view.state == State::Unhealthy).count(), 4);
}

#[derive(Clone, Debug)]
enum Step {
    Call(Option<usize>),
    Report(usize, Outcome),
    Update(Vec<(usize, bool)>),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        3 => (0u64..2000, proptest::option::of(0u8..17))
            .prop_map(|(latency, status)| Outcome::Answered { latency: ms(latency), status }),
        1 => Just(Outcome::Unsent),
        1 => Just(Outcome::Lost),
        1 => Just(Outcome::TimedOut),
        1 => Just(Outcome::Cancelled),
    ];
    prop_oneof![
        6 => proptest::option::of(0usize..6).prop_map(Step::Call),
        5 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Step::Report(which, outcome)),
        1 => proptest::collection::vec((0usize..6, any::<bool>()), 0..8).prop_map(Step::Update),
        3 => (0u64..3000).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn counts_are_exact_and_the_unhealthy_get_nothing(steps in proptest::collection::vec(step(), 0..200), seed: u64) {
        let config = Config { endpoint_calls_max: 4, service_calls_max: 10, ..Config::default() };
        let mut story = Story::with(3, config, seed);
        let mut open: Vec<Route> = Vec::new();
        let mut most = 0;
        for step in steps {
            match step {
                Step::Call(tried) => {
                    let tried: Vec<_> = tried.into_iter().map(|idx| endpoint(idx).id).collect();
                    let attempt = if tried.is_empty() { Attempt::First } else { Attempt::Again(&tried) };
                    if let Ok(route) = story.tries(attempt) {
                        let offered = story.offered.iter().find(|offered| offered.id == route.endpoint.id);
                        prop_assert!(offered.is_some_and(|offered| offered.is_healthy));
                        open.push(route);
                    }
                }
                Step::Report(which, outcome) if !open.is_empty() => {
                    let route = open.swap_remove(which % open.len());
                    story.reports(&route, outcome);
                    story.reports(&route, Outcome::Unsent);
                }
                Step::Report(..) => {}
                Step::Update(offered) => {
                    let offered: BTreeMap<usize, bool> = offered.into_iter().collect();
                    story.offered = offered.into_iter().map(|(idx, is_healthy)| {
                        let mut endpoint = endpoint(idx);
                        endpoint.is_healthy = is_healthy;
                        endpoint
                    }).collect();
                    story.update();
                }
                Step::Wait(time) => story.waits(ms(time)),
            }
            most = most.max(open.len());
            prop_assert_eq!(story.router.in_flight(), open.len());
            for view in story.router.endpoints(story.now, &service()) {
                let to_it = open.iter().filter(|route| route.endpoint.id == view.endpoint.id).count();
                prop_assert_eq!(view.in_flight as usize, to_it);
                prop_assert!(to_it <= 4);
            }
        }
        prop_assert!(most <= 10);
        for route in open {
            story.reports(&route, answered(ms(1)));
        }
        prop_assert_eq!(story.router.in_flight(), 0);
        story.offered.clear();
        story.update();
        let names: Vec<&ServiceName> = story.router.services().collect();
        prop_assert!(names.is_empty());
    }
}

/// Prints what one call costs: `cargo test --release -p sagemesh-route -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, for release builds"]
fn decide_and_report_take_less_than_a_microsecond() {
    for n in [2, 10, 100, 1000] {
        let mut story = Story::new(n);
        let n_calls = 200_000;
        for _ in 0..1000 {
            story.makes(ms(5));
        }
        let start = std::time::Instant::now();
        for _ in 0..n_calls {
            story.makes(ms(5));
        }
        let took = start.elapsed() / n_calls;
        eprintln!("{n} endpoints: {took:?} a call");
        assert!(n > 10 || took < std::time::Duration::from_micros(1));
    }
}
