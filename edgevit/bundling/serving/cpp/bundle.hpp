// Reads a bundle, and turns an image into the model's input and the model's output into labels.
//
// The image has the model's size already: nothing here decodes JPEG or resizes. Write a P6 PPM file with the bundle's
// preprocess.py (see README.md), or take the pixels of a camera and resize them as iospec.json says.

#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace bundle {

using Json = nlohmann::json;
using Bytes = std::vector<std::uint8_t>;

constexpr std::uintmax_t largest_text = 1u << 26;  // bytes of a file that is read as a whole
constexpr std::int64_t largest_side = 1 << 13;     // pixels
constexpr std::int64_t largest_batch = 1 << 10;

// What bundle.json, iospec.json and labels.txt say about the model.
struct Model {
    std::filesystem::path folder;
    Json record;                      // bundle.json
    std::string input, output;        // the names of the tensors
    std::string meaning;              // of the output
    std::vector<std::int64_t> shape;  // of the input, with a batch of one image where the model leaves it open
    std::int64_t height, width;
    bool takes_uint8;                 // the input is uint8 (N, height, width, 3): the graph scales and normalizes
    std::array<float, 3> mean, std;   // of red, green and blue, on a scale of 0 to 1
    std::vector<std::string> labels;  // in the order of the output
};

inline void require(bool condition, const std::string& what) {
    if (!condition) throw std::runtime_error(what);
}

inline std::string text_of(const std::filesystem::path& file) {
    require(std::filesystem::is_regular_file(file), file.string() + ": is missing");
    require(std::filesystem::file_size(file) <= largest_text, file.string() + ": is too large");
    std::ifstream opened(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(opened), {}};
}

inline std::int64_t number_in(const Json& value, std::int64_t most, const std::string& what) {
    require(value.is_number_integer() && value >= 1 && value <= most, what + ": 1 to " + std::to_string(most));
    return value.get<std::int64_t>();
}

// The model of a bundle. Throws where a file is missing or unlike what edgevit writes. Hashes are not compared: that is
// `python3 infer.py --verify`.
inline Model read(const std::filesystem::path& folder) {
    Model model;
    model.folder = folder;
    model.record = Json::parse(text_of(folder / "bundle.json"));
    require(model.record.at("format") == "edgevit-bundle", "bundle.json: format is edgevit-bundle");
    require(model.record.at("format_version") == 1, "bundle.json: format_version is 1");
    const Json spec = Json::parse(text_of(folder / "iospec.json"));
    const Json &input = spec.at("inputs").at(0), &output = spec.at("outputs").at(0), &rule = spec.at("preprocess");
    model.input = input.at("name").get<std::string>();
    model.output = output.at("name").get<std::string>();
    model.meaning = output.value("meaning", "");
    model.height = number_in(rule.at("height"), largest_side, "iospec.json: height");
    model.width = number_in(rule.at("width"), largest_side, "iospec.json: width");
    model.takes_uint8 = rule.value("normalised_inside", false);
    model.mean = rule.at("mean").get<std::array<float, 3>>();
    model.std = rule.at("std").get<std::array<float, 3>>();
    const Json& batch = input.at("shape").at(0);
    const std::int64_t images = batch.is_string() ? 1 : number_in(batch, largest_batch, "iospec.json: batch");
    model.shape = model.takes_uint8 ? std::vector<std::int64_t>{images, model.height, model.width, 3}
                                    : std::vector<std::int64_t>{images, 3, model.height, model.width};
    std::istringstream lines(text_of(folder / "labels.txt"));
    for (std::string line; std::getline(lines, line);) model.labels.push_back(line);
    return model;
}

// The pixels of a P6 PPM file of the model's size: height rows of width pixels of red, green and blue.
inline Bytes pixels_of(const std::filesystem::path& file, const Model& model) {
    const auto count = static_cast<std::size_t>(model.height * model.width * 3);
    std::ifstream opened(file, std::ios::binary);
    std::string magic;
    std::int64_t width = 0, height = 0, most = 0;
    opened >> magic >> width >> height >> most;
    require(opened && magic == "P6" && most == 255, file.string() + ": is no PPM file (P6, 255, without comments)");
    require(width == model.width && height == model.height,
            file.string() + ": has " + std::to_string(width) + "x" + std::to_string(height) + " pixels, expected " +
                std::to_string(model.width) + "x" + std::to_string(model.height));
    opened.get();  // the one character after the header
    Bytes pixels(count);
    opened.read(reinterpret_cast<char*>(pixels.data()), static_cast<std::streamsize>(count));
    require(static_cast<std::size_t>(opened.gcount()) == count, file.string() + ": ends before its last pixel");
    return pixels;
}

// Planes of red, green and blue, scaled to 0..1 and normalized: (3, height, width).
inline std::vector<float> normalized(const Bytes& pixels, const Model& model) {
    const std::size_t plane = pixels.size() / 3;
    std::vector<float> values(pixels.size());
    for (std::size_t i = 0; i < pixels.size(); ++i) {
        const std::size_t channel = i % 3;
        values[channel * plane + i / 3] = (pixels[i] / 255.0f - model.mean[channel]) / model.std[channel];
    }
    return values;
}

// The same image for each place of the model's batch.
template <typename T>
std::vector<T> repeated(const std::vector<T>& image, const Model& model) {
    std::vector<T> batch;
    for (std::int64_t i = 0; i < model.shape[0]; ++i) batch.insert(batch.end(), image.begin(), image.end());
    return batch;
}

// The probability of each class, as answers.py computes it.
inline std::vector<double> probabilities(const std::vector<float>& scores, const std::string& meaning) {
    std::vector<double> values(scores.begin(), scores.end());
    if (meaning == "class probabilities" || meaning == "independent class probabilities") return values;
    if (meaning == "probability of class 1") return {1 - values.at(0), values.at(0)};
    if (meaning == "score of class 1") values = {0, values.at(0)};
    const double most = *std::max_element(values.begin(), values.end());
    for (double& value : values) value = std::exp(value - most);
    const double sum = std::accumulate(values.begin(), values.end(), 0.0);
    for (double& value : values) value /= sum;
    return values;
}

// Whether the best of the scores is a number, as infer.py asks: a class that the model excludes may have -infinity.
inline bool is_usable(const std::vector<float>& scores) {
    const bool has_nan = std::any_of(scores.begin(), scores.end(), [](float x) { return std::isnan(x); });
    return !scores.empty() && !has_nan && std::isfinite(*std::max_element(scores.begin(), scores.end()));
}

// UTF-8 in one line, with control characters escaped as in JSON: a bundle's text does not control the terminal.
inline std::string printable(const std::string& text) {
    const char* const digits = "0123456789abcdef";
    std::string line;
    for (std::size_t i = 0; i < text.size(); ++i) {
        unsigned char byte = static_cast<unsigned char>(text[i]);
        const unsigned char next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0;
        const bool is_c1 = byte == 0xc2 && next >= 0x80 && next <= 0x9f;  // U+0080 to U+009F
        if (is_c1) byte = static_cast<unsigned char>(text[++i]);
        if (is_c1 || byte < 0x20 || byte == 0x7f)
            line += std::string("\\u00") + digits[byte >> 4] + digits[byte & 15];
        else
            line += text[i];
    }
    return line;
}

// Print the labels of an image, best first, as one JSON object with the output's numbers; null for -infinity.
inline void print(const std::string& image, const std::vector<float>& scores, const Model& model, std::size_t top) {
    require(is_usable(scores), "the model's output '" + model.output + "' is empty, NaN or infinite");
    const std::vector<double> confidence = probabilities(scores, model.meaning);
    require(confidence.size() == model.labels.size(), "the model's output has not one number for each label");
    std::vector<std::size_t> order(confidence.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return confidence[a] > confidence[b]; });
    order.resize(std::min(top, order.size()));
    Json labels = Json::array();
    for (const std::size_t i : order) labels.push_back({{"label", model.labels[i]}, {"confidence", confidence[i]}});
    const Json answer = {{"image", image}, {"labels", labels}, {model.output, scores}};
    std::cout << printable(answer.dump(-1, ' ', false, Json::error_handler_t::replace)) << "\n";
}

// The command line of both programs: BUNDLE IMAGE.ppm [TOP]. `infer` gives the output for one image.
template <typename Infer>
int run(int count, char** arguments, Infer infer) {
    if (count < 3 || count > 4) {
        std::cerr << "usage: " << arguments[0] << " BUNDLE IMAGE.ppm [TOP]\n";
        return 2;
    }
    try {
        const Model model = read(arguments[1]);
        const std::string top = count == 4 ? arguments[3] : "1";
        require(top.size() <= 6 && top.find_first_not_of("0123456789") == std::string::npos && std::atoi(top.c_str()) > 0,
                "TOP is a whole number from 1");
        const Bytes pixels = pixels_of(arguments[2], model);
        print(arguments[2], infer(model, pixels), model, static_cast<std::size_t>(std::atoi(top.c_str())));
        return 0;
    } catch (const std::exception& error) {
        std::cerr << "error: " << printable(error.what()) << "\n";
        return 2;
    }
}

}  // namespace bundle
