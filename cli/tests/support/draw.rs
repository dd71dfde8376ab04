//! Numbers that look random and are the same every time, and how many rounds a test takes.

use std::time::Duration;

/// Knuth's MMIX generator.
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    fn bits(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 48
    }

    /// Below `limit`.
    pub(crate) fn time(&mut self, limit: Duration) -> Duration {
        let share = u32::try_from(self.bits()).unwrap();
        limit * share / 65_536
    }

    /// Below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        let large = self.bits() << 32 | self.bits() << 16 | self.bits();
        usize::try_from(large).unwrap() % limit
    }
}

/// `RBUILD_TEST_ROUNDS`, or what is enough for every day.
pub(crate) fn rounds(every_day: u32) -> u32 {
    testdata::machine::number("RBUILD_TEST_ROUNDS", every_day)
}
