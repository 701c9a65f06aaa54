// Labels one image with a bundle's model.onnx in ONNX Runtime, on the CPU.
//
//     classify_onnxruntime BUNDLE IMAGE.ppm [TOP]

#include "bundle.hpp"

#include <onnxruntime_cxx_api.h>
#include <onnxruntime_session_options_config_keys.h>

namespace {

// The options that bundle.json records: graph optimizations may be off, as a whole or some by name. Exact sums keep INT8
// products from overflowing on x86 CPUs without VNNI.
Ort::SessionOptions session_options(const bundle::Json& record) {
    bundle::require(record.at("runtime").at("name") == "onnxruntime", "the bundle is for another runtime");
    const bundle::Json& recorded = record.at("session_options");
    const bool is_off = recorded.value("graph_optimization_level", "all") == "disabled";
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    options.SetInterOpNumThreads(1);
    options.SetGraphOptimizationLevel(is_off ? ORT_DISABLE_ALL : ORT_ENABLE_ALL);
    std::string disabled;
    for (const bundle::Json& name : recorded.value("disabled_optimizers", bundle::Json::array()))
        disabled += (disabled.empty() ? "" : ";") + name.get<std::string>();
    if (recorded.value("exact_sums", true)) options.AddConfigEntry("session.x64quantprecision", "1");
    if (!disabled.empty()) options.AddConfigEntry(kOrtSessionOptionsDisableSpecifiedOptimizers, disabled.c_str());
    return options;
}

template <typename T>
Ort::Value tensor_of(std::vector<T>& values, const std::vector<std::int64_t>& shape) {
    const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    return Ort::Value::CreateTensor<T>(memory, values.data(), values.size(), shape.data(), shape.size());
}

std::vector<float> infer(const bundle::Model& model, const bundle::Bytes& pixels) {
    const Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "classify");
    const std::string file = (model.folder / "model.onnx").string();
    Ort::Session session(environment, file.c_str(), session_options(model.record));

    bundle::Bytes bytes;  // one of the two holds the input, as long as the session runs
    std::vector<float> values;
    if (model.takes_uint8)
        bytes = bundle::repeated(pixels, model);
    else
        values = bundle::repeated(bundle::normalized(pixels, model), model);
    Ort::Value input = model.takes_uint8 ? tensor_of(bytes, model.shape) : tensor_of(values, model.shape);

    const char *input_name = model.input.c_str(), *output_name = model.output.c_str();
    const auto outputs = session.Run(Ort::RunOptions{nullptr}, &input_name, &input, 1, &output_name, 1);
    const auto type = outputs.at(0).GetTensorTypeAndShapeInfo();
    bundle::require(type.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, "the model's output is not float32");
    const std::size_t width = type.GetElementCount() / static_cast<std::size_t>(model.shape[0]);
    const float* scores = outputs[0].GetTensorData<float>();
    return {scores, scores + width};
}

}  // namespace

int main(int count, char** arguments) { return bundle::run(count, arguments, infer); }
