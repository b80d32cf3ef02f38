//! The words of the board that compare-and-swap exchanges, packed and unpacked.

/// The number of a slot, and of the worker in it.
pub(crate) type SlotId = u32;

/// A ticket's number.
pub(crate) type TicketId = u32;

/// The most slots of a board: the slot field of an entry can name no more.
pub(crate) const MAX_WORKERS: u32 = 1 << 12;

/// An entry of the ring, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Empty,
    /// Published and not claimed. `seq` is the low 32 bits of the number of the publication.
    Ready {
        seq: u32,
        ticket: TicketId,
    },
    /// Claimed by the worker in a slot.
    Taken {
        seq: u32,
        ticket: TicketId,
        slot_id: SlotId,
    },
}

const KIND_READY: u64 = 1 << 62;
const KIND_TAKEN: u64 = 2 << 62;
pub(super) const TICKET_BITS: u32 = 18;

impl Entry {
    pub(super) fn pack(self) -> u64 {
        match self {
            Entry::Empty => 0,
            Entry::Ready { seq, ticket } => KIND_READY | u64::from(ticket) << 32 | u64::from(seq),
            Entry::Taken { seq, ticket, slot_id } => {
                KIND_TAKEN
                    | u64::from(slot_id) << (32 + TICKET_BITS)
                    | u64::from(ticket) << 32
                    | u64::from(seq)
            }
        }
    }

    pub(super) fn unpack(bits: u64) -> Entry {
        let seq = bits as u32;
        let ticket = (bits >> 32) as u32 & ((1 << TICKET_BITS) - 1);
        let slot_id = (bits >> (32 + TICKET_BITS)) as u32 & (MAX_WORKERS - 1);
        match bits & (3 << 62) {
            KIND_READY => Entry::Ready { seq, ticket },
            KIND_TAKEN => Entry::Taken { seq, ticket, slot_id },
            _ => Entry::Empty,
        }
    }
}

/// How many tasks of a claimed ticket its claimer has `taken`, and the `limit` up to which the
/// tasks are the claimer's. The parent lowers the limit to take tasks back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) taken: u32,
    pub(super) limit: u32,
}

impl Extent {
    pub(super) fn pack(self) -> u64 {
        u64::from(self.limit) << 32 | u64::from(self.taken)
    }

    pub(super) fn unpack(bits: u64) -> Extent {
        Extent { taken: bits as u32, limit: (bits >> 32) as u32 }
    }
}
