# Interface packages generate hundreds of small C++ files that include the same headers: compiled as one file for each
# library, they take a third of the time. C files define the same names and stay apart, and so do the introspection's,
# which specialize templates that files before them may have used.
set(CMAKE_UNITY_BUILD ON)
set(CMAKE_UNITY_BUILD_BATCH_SIZE 0)
cmake_language(DEFER CALL set_target_properties
  ${PROJECT_NAME}__rosidl_generator_c ${PROJECT_NAME}__rosidl_typesupport_introspection_cpp
  PROPERTIES UNITY_BUILD OFF)
