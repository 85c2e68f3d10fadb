//! (stand-in until the plan lands)
use contract::Settings;
/// A stage of the plan.
pub struct PlannedStage {
    /// Name.
    pub id: String,
    /// Type.
    pub type_name: &'static str,
    /// Settings.
    pub settings: Box<dyn Settings>,
    /// Edges a port.
    pub inputs: Vec<Vec<Edge>>,
}
/// An edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Giver.
    pub from: usize,
    /// Crosses to the next step.
    pub feedback: bool,
}
