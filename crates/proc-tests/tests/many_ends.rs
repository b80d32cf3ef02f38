//! Values with channel ends or shared memory, more of them than there are descriptors.

mod support;
use support::scenario;

in_contexts! {
    many_senders_cross_with_few_descriptors: forkserver spawn fork;
    many_receivers_cross_with_few_descriptors: forkserver spawn fork;
    much_memory_crosses_with_few_descriptors: forkserver spawn fork;
    many_shared_arrays_cross_with_few_descriptors: forkserver spawn fork;
    values_of_many_ends_cross_with_few_descriptors: forkserver spawn fork;
    limit_before_init_is_kept_too: forkserver spawn fork;
    many_results_with_ends_arrive_or_are_refused: forkserver spawn fork;
}

/// How many were fine, refused and absent in one way.
fn counts(told: &str) -> [usize; 3] {
    let numbers: Vec<usize> = told
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    numbers.try_into().expect("there are three numbers")
}

fn cross(name: &str, context: &str, limit: usize, kind: &str, count: usize) {
    let words = [limit.to_string(), kind.into(), count.to_string()];
    let finished = scenario(name, context, &words.each_ref().map(String::as_str));
    finished.succeeded();
    for way in ["map", "try_map", "imap", "imap_unordered", "apply_async", "map_async"] {
        let told = finished.after(&format!("{way}: "));
        let [fine, refused, absent] = counts(told);
        assert_eq!(fine + refused + absent, count, "{limit} {kind} {way}: {told}");
        // Here there is room for what the library holds at a time; `map_async` and `apply_async`
        // may take all inputs before the first is done.
        if limit == 1024 && ["map", "try_map", "imap", "imap_unordered"].contains(&way) {
            assert_eq!(fine, count, "{limit} {kind} {way}: {told}");
        }
    }
}

fn cross_all(context: &str, kind: &str, count: usize) {
    // More than there are descriptors, each time.
    for (limit, count) in [(1024, count), (256, 400), (64, 100)] {
        cross("many-ends", context, limit, kind, count);
    }
}

fn many_senders_cross_with_few_descriptors(context: &str) {
    cross_all(context, "sender", 2000);
}

fn many_receivers_cross_with_few_descriptors(context: &str) {
    cross_all(context, "receiver", 1500);
}

fn much_memory_crosses_with_few_descriptors(context: &str) {
    cross_all(context, "memory", 1500);
}

fn many_shared_arrays_cross_with_few_descriptors(context: &str) {
    cross_all(context, "shared", 1000);
}

fn values_of_many_ends_cross_with_few_descriptors(context: &str) {
    cross_all(context, "several", 500);
}

fn limit_before_init_is_kept_too(context: &str) {
    cross("many-ends-before-init", context, 1024, "sender", 2000);
    cross("many-ends-before-init", context, 256, "sender", 2000);
}

fn many_results_with_ends_arrive_or_are_refused(context: &str) {
    for (limit, kind) in [(1024, "sender"), (256, "sender"), (256, "memory"), (64, "shared")] {
        let finished = scenario("many-ends-returned", context, &[&limit.to_string(), kind]);
        finished.succeeded();
        let told = finished.after("imap: ");
        let [fine, refused, absent] = counts(told);
        assert_eq!((fine + refused, absent), (2000, 0), "{limit} {kind}: {told}");
        // Each is let go at once, so what the library holds ahead is all that takes descriptors.
        assert!(limit == 64 || refused == 0, "{limit} {kind}: {told}");
        // Those that are kept need a descriptor each.
        let told = finished.after("try_map: ");
        let [fine, refused, absent] = counts(told);
        assert_eq!((fine + refused, absent), (2000, 0), "{limit} {kind}: {told}");
        assert!(0 < fine && fine < limit && refused > 0, "{limit} {kind}: {told}");
        assert_eq!(finished.after("map: "), "refused");
    }
}
