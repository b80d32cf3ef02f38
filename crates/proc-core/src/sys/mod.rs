//! Wraps the system calls that proc-core needs, each in a safe function with one meaning.
//!
//! `unsafe` code is allowed only here, in `memory/region.rs` and in three macros (ARCHITECTURE.md
//! names them). The module `os` contains most functions that differ between systems. On Linux it is
//! `linux.rs`. Elsewhere it is `other.rs`, which has the same functions, made from POSIX calls.
//! Nothing here uses tasks, pools or ipc-channel. Only error texts name settings of a pool.

#![allow(unsafe_code)]

#[cfg(all(target_os = "linux", not(proc_core_portable)))]
#[path = "linux.rs"]
mod os;
#[cfg(not(all(target_os = "linux", not(proc_core_portable))))]
#[path = "other.rs"]
mod os;

mod access;
#[cfg(all(target_os = "linux", not(proc_core_portable)))]
mod cgroup;
mod children;
mod crash;
mod descriptors;
mod exit;
mod fd_channel;
mod fork;
mod futex;
mod identity;
pub(crate) mod image;
mod interrupt;
mod limits;
mod liveness;
pub(crate) mod memory;
mod profile;
mod profile_runtime;
mod record_lock;
mod reserve;
mod rights;
mod shortage;
mod signals;
mod startup;
mod threads;
mod value;

pub(crate) use children::{
    Reaped, has_ended, is_child, parent_pid, reap, reap_one, reap_until, signal_child,
};
pub(crate) use crash::{prepare_last_words, send_last_words_at_crash};
pub(crate) use descriptors::{
    are_joined, close_copy, copy_standard_stream, duplicate_descriptor, inode, pass_on,
    poll_descriptor, replace_descriptor, set_standard_stream, take_over, wait_readable,
};
pub(crate) use exit::{
    end_process, exit_if_copy_of, exit_now, flush, register_exit_handler, try_flush_stdout,
};
pub(crate) use fd_channel::{
    ChannelMessage, Listener, Notifier, Tag, copy_from_socket, fd_channel, put_into_socket,
    take_from_socket,
};
pub(crate) use fork::{Forked, count_of_forks, fork, set_env, to_execute};
pub(crate) use futex::{wait_for_either, wake};
pub(crate) use identity::{PerProcess, own_word, pid};
pub(crate) use image::Constructor;
pub(crate) use interrupt::with_time_limit;
pub(crate) use limits::{
    limit_of_open_files, raise_limit_of_open_files, restore_limit_of_open_files, set_limit,
    set_niceness,
};
pub(crate) use liveness::{
    hold_byte, is_byte_held, is_file_ours_alone, pass_on_itself, reopen, share_file, unshare_file,
};
pub(crate) use os::{
    Affinity, ChildExits, affinity, die_with_parent, kill_holders_of_socket, name_process,
    own_memory, set_affinity, watch_process,
};
pub(crate) use profile::{time_to_end, writes_counts};
pub(crate) use reserve::{has_memory_for_messages, keep_reserve, with_reserve};
pub(crate) use rights::{Capabilities, Rights, RightsReader, follow_main_thread};
pub(crate) use shortage::{hint, is_shortage};
pub(crate) use signals::{
    SignalMask, block_fork_server_signals, die_of_group_signals, ignore_sigpipe, reset_sigchld,
    signal_name, survive_group_signals,
};
pub(crate) use startup::{
    Arguments, before_main, fill_standard_streams, null_stream, run_constructors_after,
};
pub(crate) use threads::{
    SMALL_STACK, SingleThread, USUAL_STACK, available_processors, has_one_thread, is_main_thread,
    spawn_thread, thread_number,
};
pub(crate) use value::{monotonic, zst_value};
