// Labels one image with a bundle's model.onnx in ONNX Runtime, on the CPU.
//
//     classify_onnxruntime BUNDLE IMAGE.ppm [TOP]

#include "bundle.hpp"

#include <onnxruntime_cxx_api.h>
#include <onnxruntime_session_options_config_keys.h>

namespace {

constexpr const char* exact_sums = "session.x64quantprecision";  // slower kernels, which add INT8 products in 32 bits

// The ONNX file of y = a · b: int8 b (16, 16) is 127 everywhere, uint8 a (1, 16) is the input, int32 y the output.
std::string product_file() {
    using namespace std::string_literals;
    const std::string node = "\n\x18\n\x01" "a\n\x01" "b\x12\x01y\"\rMatMulInteger" "\x12\x07product"s;
    const std::string weights = "*\x8c\x02\x08\x10\x08\x10\x10\x03" "B\x01" "bJ\x80\x02"s + std::string(16 * 16, 127);
    const std::string input = "Z\x13\n\x01" "a\x12\x0e\n\x0c\x08\x02\x12\x08\n\x02\x08\x01\n\x02\x08\x10"s;
    const std::string output = "b\x13\n\x01y\x12\x0e\n\x0c\x08\x06\x12\x08\n\x02\x08\x01\n\x02\x08\x10"s;
    return "\x08\x04:\xdc\x02"s + node + weights + input + output + "B\x04\n\x00\x10\n"s;
}

// Whether ONNX Runtime's fastest INT8 kernels overflow on this CPU, as they do on x86 without VNNI.
bool sums_overflow(const Ort::Env& environment) {
    const std::string file = product_file();
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    Ort::Session session(environment, file.data(), file.size(), options);
    std::vector<std::uint8_t> largest(16, 255);
    const std::array<std::int64_t, 2> shape{1, 16};
    const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const Ort::Value input = Ort::Value::CreateTensor(memory, largest.data(), largest.size(), shape.data(), shape.size());
    const char *a = "a", *y = "y";
    const auto outputs = session.Run(Ort::RunOptions{nullptr}, &a, &input, 1, &y, 1);
    const std::int32_t* sums = outputs.at(0).GetTensorData<std::int32_t>();
    return std::any_of(sums, sums + 16, [](std::int32_t sum) { return sum != 16 * 255 * 127; });
}

// The options that bundle.json records: graph optimizations may be off, as a whole or some by name. Exact sums take
// slower kernels; they are needed where the fastest ones overflow.
Ort::SessionOptions session_options(const bundle::Json& record, const Ort::Env& environment) {
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
    if (!is_off && recorded.value("exact_sums", true) && sums_overflow(environment)) {
        options.AddConfigEntry(exact_sums, "1");
        options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_FATAL);  // of what is printed; all errors are thrown
    }
    if (!disabled.empty()) options.AddConfigEntry(kOrtSessionOptionsDisableSpecifiedOptimizers, disabled.c_str());
    return options;
}

template <typename T>
Ort::Value tensor_of(std::vector<T>& values, const std::vector<std::int64_t>& shape) {
    const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    return Ort::Value::CreateTensor<T>(memory, values.data(), values.size(), shape.data(), shape.size());
}

// Whether a file has operators that compute with integers at any level of optimization.
bool has_integer_operators(const std::string& file) {
    std::ifstream opened(file, std::ios::binary);
    const std::string content{std::istreambuf_iterator<char>(opened), {}};
    const auto has = [&](const char* name) { return content.find(name) != std::string::npos; };
    return has("QLinear") || has("QGemm") || has("QAttention") || has("MatMulInteger") || has("ConvInteger") ||
           has("DynamicQuantize");
}

// With exact sums, ONNX Runtime cannot open a file in which two nodes read one int8 constant. If the integers are in
// Q/DQ pairs alone, the file is then opened with the basic optimizations: the layers between the pairs compute in float.
Ort::Session opened(const Ort::Env& environment, const bundle::Model& model) {
    const std::string file = (model.folder / "model.onnx").string();
    Ort::SessionOptions options = session_options(model.record, environment);
    try {
        return Ort::Session(environment, file.c_str(), options);
    } catch (const Ort::Exception&) {
        if (!options.HasConfigEntry(exact_sums) || has_integer_operators(file)) throw;
    }
    std::cerr << file << ": ONNX Runtime cannot add its INT8 products exactly: they compute in float\n";
    options.SetGraphOptimizationLevel(ORT_ENABLE_BASIC);
    return Ort::Session(environment, file.c_str(), options);
}

std::vector<float> infer(const bundle::Model& model, const bundle::Bytes& pixels) {
    const Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "classify");
    Ort::Session session = opened(environment, model);

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
