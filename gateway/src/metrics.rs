//! Metrics of the gateway.

use chassis::metrics::LATENCY_SECONDS;

chassis::label! {
    /// How a command ended for its client.
    pub enum CommandOutcome: "outcome" {
        /// Stored, or nothing had to change.
        Ok = "ok",
        /// Refused for good.
        Refused = "refused",
        /// Over a rate.
        RateLimited = "rate_limited",
        /// A part did not answer.
        Unavailable = "unavailable",
        /// Outcome unknown to the gateway.
        Timeout = "timeout",
    }
}

chassis::label! {
    /// Where a question to history went.
    pub enum AnswerOutcome: "outcome" {
        /// Answered.
        Ok = "ok",
        /// Refused.
        Refused = "refused",
        /// Nobody answered.
        Unavailable = "unavailable",
    }
}

chassis::label! {
    /// Why a socket ended.
    pub enum SocketEnd: "cause" {
        /// The client closed it.
        Client = "client",
        /// The connection broke.
        Lost = "lost",
        /// The client broke a rule of the transport or of the protocol.
        Protocol = "protocol",
        /// No valid token.
        Auth = "auth",
        /// Silence, or nothing was taken.
        Stalled = "stalled",
        /// A cap: rate, sockets, device.
        Cap = "cap",
        /// This gateway stopped, or could not serve it.
        Gateway = "gateway",
    }
}

chassis::metrics! {
    /// Metrics of the gateway.
    pub struct Metrics: "natter_gateway" {
        /// Sockets that are open now.
        sockets: Gauge,
        /// Sockets that were opened.
        sockets_opened_total: Counter,
        /// Sockets that ended, by cause.
        sockets_closed_total: Counter[SocketEnd],
        /// Frames written to sockets.
        frames_sent_total: Counter,
        /// Messages (of one or more frames) written to sockets.
        messages_sent_total: Counter,
        /// Text messages received from sockets.
        messages_received_total: Counter,
        /// Sockets that were too slow and had to catch up.
        lagged_total: Counter,
        /// Commands that write, by outcome.
        commands_total: Counter[CommandOutcome],
        /// Time from a batch's request to its answer.
        command_seconds: Histogram(LATENCY_SECONDS),
        /// Questions to history, by outcome.
        questions_total: Counter[AnswerOutcome],
        /// Time from a question to history to its answer.
        question_seconds: Histogram(LATENCY_SECONDS),
        /// Gaps found in the live feed.
        feed_gaps_total: Counter,
        /// Records that were fetched because the live feed had lost them.
        feed_filled_total: Counter,
        /// Records that are nowhere: an operator must look.
        feed_lost_total: Counter,
        /// Newest position of the log that this gateway has.
        feed_position: Gauge,
        /// Records in memory.
        ring_records: Gauge,
        /// Bytes of the records in memory.
        ring_bytes: Gauge,
        /// Users whose rooms are remembered.
        views: Gauge,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_obey_the_rules() {
        let faults: Vec<_> = Metrics::DEFINITIONS
            .iter()
            .flat_map(chassis::metrics::faults)
            .collect();
        assert_eq!(faults, Vec::<String>::new());
    }
}
