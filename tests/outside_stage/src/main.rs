//! `pipeline` with five additional stage types and a sink of metrics, each in a file of its own. This is the whole
//! program.
mod capitals;
mod csv;
mod deb822;
mod lion;
mod relu2_gpt2;
mod z_loss;

use millrace_pipelines::{App, STAGES};
use text::corpus::read_records::source_type;
use text::filter::filter_type;
use train::forward::model_type;
use train::loss::loss_type;
use train::optimize::optimizer_type;

fn main() -> std::process::ExitCode {
    App::new(STAGES)
        .with(source_type::<deb822::Deb822>("deb822"))
        .with(filter_type::<capitals::Capitals>("capitals"))
        .with(model_type::<relu2_gpt2::Relu2Gpt2>("relu2_gpt2"))
        .with(loss_type::<z_loss::ZLoss>("z_loss"))
        .with(optimizer_type::<lion::Lion>("lion"))
        .with_sink(csv::CSV)
        .main()
}
