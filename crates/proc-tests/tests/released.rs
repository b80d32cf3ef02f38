//! Channel ends given to a pool's initializer, state or preload are gone when the pool has ended.

mod support;
use support::scenario;

in_contexts! {
    channels_of_initializers_end_with_the_pool: forkserver spawn fork;
    channels_of_states_end_with_the_pool: forkserver spawn fork;
    channels_of_preloads_end_with_the_pool: forkserver spawn fork;
}

fn released(context: &str, place: &str) {
    for way in ["join", "terminate-join", "terminate", "drop"] {
        let finished = scenario("released", context, &[place, way]);
        assert_eq!(finished.succeeded(), "gone\n", "{place} {way}");
    }
}

fn channels_of_initializers_end_with_the_pool(context: &str) {
    released(context, "initializer");
}

fn channels_of_states_end_with_the_pool(context: &str) {
    released(context, "state");
}

fn channels_of_preloads_end_with_the_pool(context: &str) {
    released(context, "preload");
}
