//! Which faults happen.

use std::fmt::{self, Display, Formatter};

use clap::{Args, ValueEnum};

/// A kind of fault. `--help` shows these comments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// Workers get SIGKILL, or SIGTERM, which they survive.
    Kills,
    /// Workers and fork servers are stopped for some milliseconds.
    Stops,
    /// Fork servers get SIGKILL.
    ForkServers,
    /// Tasks and initializers panic, exit, abort, exhaust memory, or have values that cannot be
    /// sent.
    Accidents,
    /// Tasks fork; the copy of the worker returns too, or panics.
    Forks,
    /// The program forks itself, and the copies use pools, tasks and iterators.
    Copies,
    /// All or some idle workers are stopped. They are continued or killed later, or their pool ends
    /// first.
    Sleepers,
    /// The program's address space is limited for some calls.
    AddressSpace,
    /// The program's descriptors are limited for some calls.
    Descriptors,
    /// The sizes of the program's files are limited for some calls.
    FileSizes,
}

/// The faults of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice(u32);

impl Choice {
    pub(crate) const NONE: Choice = Choice(0);

    pub(crate) fn has(self, fault: Fault) -> bool {
        self.0 & Choice::bit(fault) != 0
    }

    fn bit(fault: Fault) -> u32 {
        1 << fault as u32
    }

    fn of(faults: &[Fault]) -> u32 {
        faults.iter().fold(0, |bits, fault| bits | Choice::bit(*fault))
    }
}

/// Prints the faults that are not chosen, separated by commas, as `--without` takes them.
impl Display for Choice {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let faults = Fault::value_variants().iter().filter(|fault| !self.has(**fault));
        let names: Vec<_> = faults.filter_map(ValueEnum::to_possible_value).collect();
        let names: Vec<_> = names.iter().map(|name| name.get_name()).collect();
        f.write_str(&names.join(","))
    }
}

/// The options by which a user chooses faults.
#[derive(Args)]
pub(crate) struct Chosen {
    /// Make only these faults, separated by commas. The default is all faults.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FAULTS")]
    only: Option<Vec<Fault>>,
    /// Do not make these faults, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FAULTS")]
    without: Vec<Fault>,
}

impl Chosen {
    pub(crate) fn choice(&self) -> Choice {
        let only = self.only.as_deref().unwrap_or(Fault::value_variants());
        Choice(Choice::of(only) & !Choice::of(&self.without))
    }
}
